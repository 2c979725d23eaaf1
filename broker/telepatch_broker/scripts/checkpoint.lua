-- How far a running job has come. ARGV: id, worker, blob, seconds that it took. Returns 1, or 0 when the job is not this worker's any more.
-- A worker that is lost after this costs only what came since, so attempts count from here.
local job, at = read(ARGV[1]), now()
if not job or job.state ~= 'running' or job.worker ~= ARGV[2] then return 0 end
local before, charged = unpack(redis.call('HMGET', job_key(job.id), 'checkpoint', 'charged'))
redis.call('HSET', job_key(job.id), 'checkpoint', ARGV[3], 'attempts', 1, 'spent', ARGV[4])
redis.call('ZREM', GARBAGE, ARGV[3])
if job.lane == 'long' then
  account(job.person, at, { seconds = math.max(0, tonumber(ARGV[4]) - tonumber(charged or 0)) })
  redis.call('HSET', job_key(job.id), 'charged', ARGV[4], 'since', at)
end
if before and before ~= ARGV[3] then discard_blob(before, at + GRACE) end
return 1
