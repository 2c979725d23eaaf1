-- Hands jobs to a worker, always from the person served least so far: a batch of the interactive lane, and long jobs beside.
-- ARGV: model, worker, lease in ms, most jobs, most tokens, most long jobs, what a slice of a long job counts for, then the
-- fields wanted. Returns for each job its id and the fields.
local model, worker, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local at, taken = now(), {}

-- The next job of a lane, and the virtual time of its owner.
local function next_of(lane)
  local first = redis.call('ZRANGE', line_key(model, lane, 'people'), 0, 0, 'WITHSCORES')
  if #first == 0 then return nil end
  local place = { model = model, lane = lane, person = first[1] }
  return read(redis.call('LINDEX', queue_key(place), 0)), tonumber(first[2])
end

local function start(job, time, cost)
  redis.call('LPOP', queue_key(job))
  redis.call('SET', line_key(model, job.lane, 'clock'), time)
  redis.call('ZADD', line_key(model, job.lane, 'people'), time + cost, job.person)
  leave_if_idle(job)
  move(job, 'running')
  redis.call('HSET', job_key(job.id), 'worker', worker)
  redis.call('HSETNX', job_key(job.id), 'started', at)
  local attempt = redis.call('HINCRBY', job_key(job.id), 'attempts', 1)
  tell(model, 'attempts')
  -- The fraction keeps the order in which jobs were taken, for when they are taken back.
  redis.call('ZADD', lane_key(model, 'leases'), at + lease + #taken / 1000, job.id)
  event(job, 'running', at, cjson.encode({ attempt = attempt }))
  local answer = redis.call('HMGET', job_key(job.id), unpack(ARGV, 8))
  table.insert(answer, 1, job.id)
  table.insert(taken, answer)
end

local function take_batch(most_jobs, most_tokens)
  local spent, group = 0, nil
  while #taken < most_jobs do
    local job, time = next_of('')
    if not job then return end
    local cost, alone = tonumber(job.cost), job.alone == '1'
    if #taken > 0 and (alone or job.group ~= group or spent + cost > most_tokens) then return end
    start(job, time, cost)
    spent, group = spent + cost, job.group
    if alone then return end
  end
end

local function take_long(most, cost)
  for _ = 1, most do
    local job, time = next_of('long')
    if not job then return end
    start(job, time, cost)
  end
end

-- Those who are behind the clock need no account any more. Returns how many people still have work.
local function left(lane)
  local clock = redis.call('GET', line_key(model, lane, 'clock')) or 0
  redis.call('ZREMRANGEBYSCORE', line_key(model, lane, 'served'), '-inf', clock)
  return redis.call('ZCARD', line_key(model, lane, 'people'))
end

take_batch(tonumber(ARGV[4]), tonumber(ARGV[5]))
take_long(tonumber(ARGV[6]), tonumber(ARGV[7]))
if left('') + left('long') > 0 then wake(model) else redis.call('DEL', lane_key(model, 'wake')) end
return taken
