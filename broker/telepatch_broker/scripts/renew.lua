-- Renews leases. ARGV: worker, lease in ms, ids. Returns the ids that are not this worker's any more.
local until_ms, lost = now() + tonumber(ARGV[2]), {}
for i = 3, #ARGV do
  local job = read(ARGV[i])
  if job and job.state == 'running' and job.worker == ARGV[1] then
    redis.call('ZADD', lane_key(job.model, 'leases'), until_ms + i / 1000, job.id)
  else
    table.insert(lost, ARGV[i])
  end
end
return lost
