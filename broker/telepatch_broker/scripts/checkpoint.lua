-- How far a running job has come. ARGV: id, worker, blob, seconds that it took. Returns 1, or 0 when the job is not this worker's any more.
-- A worker that is lost after this costs only what came since, so attempts count from here.
local job, at = read(ARGV[1]), now()
if not job or job.state ~= 'running' or job.worker ~= ARGV[2] then return 0 end
local before = redis.call('HGET', job_key(job.id), 'checkpoint')
redis.call('HSET', job_key(job.id), 'checkpoint', ARGV[3], 'attempts', 1, 'spent', ARGV[4])
redis.call('HDEL', job_key(job.id), 'losses')
redis.call('ZREM', GARBAGE, ARGV[3])
if job.lane == 'long' then
  local seconds = math.max(0, tonumber(ARGV[4]) - (tonumber(job.charged) or 0))
  account(job.person, at, 'us', math.floor(seconds * 1e6 + 0.5))
  redis.call('HSET', job_key(job.id), 'charged', ARGV[4], 'since', at)
end
if before and before ~= ARGV[3] then discard_blob(before, at + GRACE) end
return 1
