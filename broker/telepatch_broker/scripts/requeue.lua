-- Gives back jobs that a worker took and will not run. ARGV: worker, ids in the order they were taken. Returns how many.
local at, given = now(), 0
for i = #ARGV, 2, -1 do
  local job = read(ARGV[i])
  if job and job.state == 'running' and job.worker == ARGV[1] then
    redis.call('HINCRBY', job_key(job.id), 'attempts', -1)
    put_back(job, at)
    given = given + 1
  end
end
return given
