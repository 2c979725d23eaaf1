-- ARGV: id, worker, error record, warnings, seconds. Returns 1, or 0 when the job is not this worker's any more.
local id, worker, record = ARGV[1], ARGV[2], ARGV[3]
local job, at = read(id), now()
if not job or job.worker ~= worker then return 0 end
if job.state == 'failed' then return 1 end
if job.state ~= 'running' then return 0 end

remember_run(id, ARGV[4], ARGV[5])
job.told = tonumber(ARGV[5])
close_failed(job, at, record)
fail_children(id, at, 'failed: ' .. cjson.decode(record).detail)
return 1
