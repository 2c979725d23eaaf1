-- Hands jobs to a worker, always from the person served least so far: a batch of the interactive lane, and long jobs beside.
-- ARGV: model, worker, lease in ms, most jobs, most tokens, most long jobs, what a slice of a long job counts for, the
-- number of people whose batch jobs are left and who they are, then the fields wanted.
-- Returns for each job its id and the fields.
local model, worker, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local at, taken = now(), {}
local passed, pass_over = tonumber(ARGV[8]), {}
for i = 1, passed do pass_over[ARGV[8 + i]] = true end

-- The next job of a lane, and the virtual time of its owner; of one's own jobs, those of higher priority first.
local function next_of(lane)
  local people = redis.call('ZRANGE', line_key(model, lane, 'people'), 0, passed, 'WITHSCORES')
  for i = 1, #people, 2 do
    local passes = lane == '' and pass_over[people[i]]
    for _, priority in ipairs(passes and {} or PRIORITIES) do
      local id = redis.call('LINDEX', list_key({ model = model, lane = lane, person = people[i] }, priority), 0)
      if id then return read(id), tonumber(people[i + 1]) end
    end
  end
end

-- Virtual time never goes back, although somebody in a hurry may be behind it.
local function start(job, time, tokens)
  local clock = line_key(model, job.lane, 'clock')
  local cost = tokens * (COUNTS_FOR[job.priority] or 1)
  redis.call('LPOP', queue_key(job))
  redis.call('SET', clock, math.max(time, tonumber(redis.call('GET', clock) or time)))
  redis.call('ZADD', line_key(model, job.lane, 'people'), time + cost, job.person)
  leave_if_idle(job)
  job.worker = worker
  move(job, 'running')
  redis.call('HSET', job_key(job.id), 'worker', worker)
  redis.call('HSETNX', job_key(job.id), 'started', at)
  local attempt = redis.call('HINCRBY', job_key(job.id), 'attempts', 1)
  tell(model, 'attempts')
  -- The fraction keeps the order in which jobs were taken, for when they are taken back.
  redis.call('ZADD', lane_key(model, 'leases'), at + lease + #taken / 1000, job.id)
  event(job, 'running', at, cjson.encode({ attempt = attempt }))
  local answer = redis.call('HMGET', job_key(job.id), unpack(ARGV, 9 + passed))
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
