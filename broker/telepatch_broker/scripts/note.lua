-- An event of a running job. ARGV: id, worker, type, data. Returns 1, or 0 when the job is not this worker's any more.
local job = read(ARGV[1])
if not job or job.state ~= 'running' or job.worker ~= ARGV[2] then return 0 end
event(job, ARGV[3], now(), ARGV[4])
return 1
