-- How the queues of a model stand; changes nothing. ARGV: model, most people to look at, most people to name.
-- Returns for the interactive and then for the long lane: people, jobs, age of the oldest in ms, and by length the longest
-- queues, person and length one after the other.
local model, most, named = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local at, answers = now(), {}

local function look_at(lane)
  local jobs, oldest, lengths = 0, 0, {}
  local people = line_key(model, lane, 'people')
  for _, person in ipairs(redis.call('ZRANGE', people, 0, most - 1)) do
    local key = queue_key({ model = model, lane = lane, person = person })
    local length = redis.call('LLEN', key)
    local first = redis.call('LINDEX', key, 0)
    local queued = first and redis.call('HGET', job_key(first), 'queued')
    jobs = jobs + length
    if queued then oldest = math.max(oldest, at - tonumber(queued)) end
    table.insert(lengths, { person, length })
  end
  table.sort(lengths, function(a, b) return a[2] > b[2] or (a[2] == b[2] and a[1] < b[1]) end)
  local longest = {}
  for i = 1, math.min(named, #lengths) do
    table.insert(longest, lengths[i][1])
    table.insert(longest, lengths[i][2])
  end
  return { redis.call('ZCARD', people), jobs, oldest, longest }
end

for _, lane in ipairs({ '', 'long' }) do table.insert(answers, look_at(lane)) end
return answers
