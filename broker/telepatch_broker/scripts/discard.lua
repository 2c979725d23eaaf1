-- The owner does not want the result any more. ARGV: id, person. Returns the state, '' when the person has no such job.
local job, at = read(ARGV[1]), now()
if not job or job.person ~= ARGV[2] then return '' end
if job.state == 'completed' then
  redis.call('HSET', job_key(job.id), 'expired', '1')
  redis.call('ZADD', EXPIRY, at, job.id)
end
return job.state
