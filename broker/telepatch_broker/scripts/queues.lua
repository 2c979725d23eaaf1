-- How a lane of a model stands, as far as some of its people go; changes nothing. Everybody else waits meanwhile, so whoever
-- asks does so for few people at a time. ARGV: model, lane, the first and the last of the people by turn, most to name.
-- Returns how many people there are in all; of those asked for jobs, age of the oldest in ms, and by length the longest
-- queues, person and length one after the other.
local model, lane, named = ARGV[1], ARGV[2], tonumber(ARGV[5])
local at, people = now(), line_key(model, lane, 'people')
local jobs, oldest, lengths = 0, 0, {}

for _, person in ipairs(redis.call('ZRANGE', people, ARGV[3], ARGV[4])) do
  local key = queue_key({ model = model, lane = lane, person = person })
  local length = redis.call('LLEN', key)
  local first = redis.call('LINDEX', key, 0)
  local queued = first and redis.call('HGET', job_key(first), 'queued')
  jobs = jobs + length
  if queued then oldest = math.max(oldest, at - tonumber(queued)) end
  if named > 0 then table.insert(lengths, { person, length }) end
end

table.sort(lengths, function(a, b) return a[2] > b[2] or (a[2] == b[2] and a[1] < b[1]) end)
local longest = {}
for i = 1, math.min(named, #lengths) do
  table.insert(longest, lengths[i][1])
  table.insert(longest, lengths[i][2])
end
return { redis.call('ZCARD', people), jobs, oldest, longest }
