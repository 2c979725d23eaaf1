-- Hands jobs to a worker, always from the person served least so far.
-- ARGV: model, worker, most jobs, most tokens, lease in ms, then the fields wanted. Returns for each job its id and the fields.
local model, worker = ARGV[1], ARGV[2]
local most_jobs, most_tokens, lease = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local people, at = lane_key(model, 'people'), now()
local taken, spent, group = {}, 0, nil

local function fits(cost, alone, its_group)
  return #taken == 0 or not (alone or its_group ~= group or spent + cost > most_tokens)
end

local function start(id, person, time, cost)
  redis.call('LPOP', queue_key(model, person))
  redis.call('SET', lane_key(model, 'clock'), time)
  redis.call('ZADD', people, time + cost, person)
  leave_if_idle(model, person)
  local job = read(id)
  move(job, 'running')
  redis.call('HSET', job_key(id), 'worker', worker, 'started', at)
  local attempt = redis.call('HINCRBY', job_key(id), 'attempts', 1)
  -- The fraction keeps the order in which jobs were taken, for when they are taken back.
  redis.call('ZADD', lane_key(model, 'leases'), at + lease + #taken / 1000, id)
  event(job, 'running', at, cjson.encode({ attempt = attempt }))
  local answer = redis.call('HMGET', job_key(id), unpack(ARGV, 6))
  table.insert(answer, 1, id)
  table.insert(taken, answer)
end

while #taken < most_jobs do
  local first = redis.call('ZRANGE', people, 0, 0, 'WITHSCORES')
  if #first == 0 then break end
  local person, time = first[1], tonumber(first[2])
  local id = redis.call('LINDEX', queue_key(model, person), 0)
  local found = redis.call('HMGET', job_key(id), 'cost', 'alone', 'group')
  local cost, alone, its_group = tonumber(found[1]), found[2] == '1', found[3] or ''
  if not fits(cost, alone, its_group) then break end
  start(id, person, time, cost)
  spent, group = spent + cost, its_group
  if alone then break end
end

redis.call('ZREMRANGEBYSCORE', lane_key(model, 'served'), '-inf', redis.call('GET', lane_key(model, 'clock')) or 0)
if redis.call('ZCARD', people) > 0 then wake(model) else redis.call('DEL', lane_key(model, 'wake')) end
return taken
