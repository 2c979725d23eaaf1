-- Takes back jobs whose worker let the lease run out. ARGV: model, most attempts, most jobs. Returns their ids.
local model, most_attempts = ARGV[1], tonumber(ARGV[2])
local at = now()
local ids = redis.call('ZRANGEBYSCORE', lane_key(model, 'leases'), '-inf', at, 'LIMIT', 0, ARGV[3])

local function give_up(job)
  local detail = 'the worker that ran this job was lost, ' .. job.attempts .. ' times in a row'
  close_failed(job, at, cjson.encode({ code = 'worker_lost', detail = detail }))
  fail_children(job.id, at, 'failed: ' .. detail)
end

-- Backwards, so that putting each at the front keeps the order in which they were taken.
for i = #ids, 1, -1 do
  local job = read(ids[i])
  tell(model, 'reclaimed')
  if tonumber(job.attempts) >= most_attempts then
    give_up(job)
  else
    -- It may be what took the worker down: it goes alone from now on.
    redis.call('HSET', job_key(job.id), 'alone', '1')
    put_back(job, at)
  end
end
return ids
