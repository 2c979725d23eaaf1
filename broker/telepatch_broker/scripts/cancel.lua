-- ARGV: id, person. Returns the state afterwards, '' when the person has no such job.
local job, at = read(ARGV[1]), now()
if not job or job.person ~= ARGV[2] then return '' end
if ENDED[job.state] then return job.state end

local running = job.state == 'running'
close(job, 'cancelled', at, '{}')
fail_children(job.id, at, 'was cancelled')
if running then redis.call('PUBLISH', lane_key(job.model, 'cancelled'), job.id) end
return job.state
