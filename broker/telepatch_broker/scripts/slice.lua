-- A slice of a long job is over. ARGV: id, worker, what a slice counts for.
-- Returns 'move' where others wait for their turn, 'stay' where nobody does and another slice has begun, or '' when the
-- job is not this worker's any more. The jobs of one person wait for each other, so that one after the other gets done.
local job = read(ARGV[1])
if not job or job.state ~= 'running' or job.worker ~= ARGV[2] then return '' end
local people = line_key(job.model, job.lane, 'people')
local own = redis.call('ZSCORE', people, job.person)
if redis.call('ZCARD', people) > (own and 1 or 0) then return 'move' end
if own then
  redis.call('ZINCRBY', people, ARGV[3], job.person)
else
  redis.call('ZADD', line_key(job.model, job.lane, 'served'), served(job) + tonumber(ARGV[3]), job.person)
end
return 'stay'
