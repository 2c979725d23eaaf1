-- Takes back jobs whose worker let the lease run out. ARGV: model, most attempts, most deaths, most jobs, most jobs in
-- quarantine. Returns their ids.
local model, most_attempts, most_deaths = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local at = now()
local ids = redis.call('ZRANGEBYSCORE', lane_key(model, 'leases'), '-inf', at, 'LIMIT', 0, ARGV[4])

-- Writes down whom the job was lost with; a worker that still says that it is alive has been hindered, and is not dead.
-- Returns how many have died since the last checkpoint.
local function note_loss(job)
  local losses = cjson.decode(redis.call('HGET', job_key(job.id), 'losses') or '[]')
  local dead = redis.call('EXISTS', worker_key(job.worker)) == 0
  table.insert(losses, { worker = job.worker, at = at, dead = dead })
  redis.call('HSET', job_key(job.id), 'losses', cjson.encode(losses))
  local deaths = 0
  for _, loss in ipairs(losses) do if loss.dead then deaths = deaths + 1 end end
  return deaths
end

local function give_up(job, detail)
  close_failed(job, at, cjson.encode({ code = 'worker_lost', detail = detail }))
  fail_children(job.id, at, 'failed: ' .. detail)
end

-- Backwards, so that putting each at the front keeps the order in which they were taken.
for i = #ids, 1, -1 do
  local job = read(ids[i])
  tell(model, 'reclaimed')
  local deaths = note_loss(job)
  if deaths >= most_deaths then
    quarantine(job, at, tonumber(ARGV[5]))
    give_up(job, deaths .. ' workers died while they had this job; it was put into quarantine, where whoever runs this '
      .. 'service can look at it and release it')
  elseif tonumber(job.attempts) >= most_attempts then
    give_up(job, 'the worker that ran this job was lost, ' .. job.attempts .. ' times in a row')
  else
    -- It may be what took the worker down: it goes alone from now on.
    redis.call('HSET', job_key(job.id), 'alone', '1')
    put_back(job, at)
  end
end
return ids
