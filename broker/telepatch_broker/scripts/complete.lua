-- The one visible result of a job. ARGV: id, worker, saves, inline result, its blob, its bytes, warnings, seconds.
-- Returns 1, or 0 when the job is not this worker's any more.
local id, worker, saves, inline, blob, bytes = unpack(ARGV, 1, 6)
local job, at = read(id), now()
if not job or job.worker ~= worker then return 0 end
-- The answer to the first try may have been lost on its way.
if job.state == 'completed' then return 1 end
if job.state ~= 'running' then return 0 end

redis.call('HSET', job_key(id), 'saves', saves, 'bytes', bytes, 'stored', bytes)
redis.call('HINCRBY', STORED, job.person, bytes)
job.bytes, job.told = tonumber(bytes), tonumber(ARGV[8])
if blob ~= '' then
  redis.call('HSET', job_key(id), 'blob', blob)
  redis.call('ZREM', GARBAGE, blob)
else
  redis.call('HSET', job_key(id), 'inline', inline)
end
remember_run(id, ARGV[7], ARGV[8])
close(job, 'completed', at, '{"saves":' .. saves .. ',"bytes":' .. bytes .. '}')
release_children(id, at)
return 1
