-- Stands before every script: the names of keys (their twins are in keys.py) and the steps that several scripts share.
-- One script is one atomic step. All clocks are the server's, in milliseconds.
-- Jobs may wait for jobs of other models, so one step can touch keys of several: one primary, not a sharded cluster.

local EVENTS_KEPT = 10000
local EVENTS_KEPT_FOR = 7 * 24 * 3600 * 1000
local GRACE = 60 * 1000
local DAY = 24 * 3600 * 1000
local USAGE_KEPT = 400 * DAY

local EXPIRY, GARBAGE, USES, MODELS =
  'telepatch:expiry', 'telepatch:garbage', 'telepatch:uses', 'telepatch:models'
local UPLOADED, UNFINISHED, OWED = 'telepatch:uploaded', 'telepatch:unfinished', 'telepatch:owed'
local QUARANTINE = 'telepatch:quarantine'
local UNENDED, PROMISED, STORED = 'telepatch:unended', 'telepatch:promised', 'telepatch:stored'
local ENDED = { completed = true, failed = true, cancelled = true }

local function job_key(id) return 'telepatch:job:' .. id end
local function children_key(id) return 'telepatch:job:' .. id .. ':children' end
local function lane_key(model, what) return 'telepatch:{' .. model .. '}:' .. what end

-- What each of a model's two lanes has for itself: people, served, clock, and a queue for each person.
local function line_key(model, lane, what) return lane_key(model, lane == 'long' and 'long:' .. what or what) end
local function worker_key(id) return 'telepatch:worker:' .. id end
local function quarantine_key(id) return 'telepatch:quarantine:' .. id end

-- A person's queue in a lane is three lists, the first to be served first. A job of high priority counts for more, and as
-- long as one waits, its owner is a little ahead of the others: by so many tokens, or milliseconds.
local PRIORITIES = { 'high', 'normal', 'low' }
local LISTS = { high = 'high:', normal = 'queue:', low = 'low:' }
local COUNTS_FOR, HEAD_START = { high = 4 }, { [''] = 4096, long = 30000 }
local function list_key(job, priority) return line_key(job.model, job.lane, LISTS[priority] .. job.person) end
local function priority_of(job) return job.priority and job.priority ~= '' and job.priority or 'normal' end
local function queue_key(job) return list_key(job, priority_of(job)) end
local function person_key(person, what) return 'telepatch:person:' .. person .. ':' .. what end

local function upload_key(person, digest) return person_key(person, 'upload:' .. digest) end

-- The same all through a script.
local time_now
local function now()
  if not time_now then
    local time = redis.call('TIME')
    time_now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  return time_now
end

local FIELDS = { 'person', 'model', 'lane', 'state', 'worker', 'cost', 'alone', 'group', 'attempts', 'parents', 'keep', 'uses', 'data',
  'promised', 'charged', 'since', 'priority' }

-- What scripts need to know of a job, or nil if there is no such job.
local function read(id)
  local values = redis.call('HMGET', job_key(id), unpack(FIELDS))
  if not values[1] then return nil end
  local job = { id = id }
  for i, field in ipairs(FIELDS) do job[field] = values[i] or '' end
  return job
end

-- Nobody can look before the script has ended, so one knock for each person is enough. That a job waits, or has begun,
-- is told in passing: whoever listens hears it soon (events.py), or with the next thing that matters.
local PASSING = { waiting = true, queued = true, running = true }
local rung = {}

local function event(job, kind, at, data)
  local key = person_key(job.person, 'events')
  redis.call('XADD', key, 'MAXLEN', '~', EVENTS_KEPT, '*', 'type', kind, 'job', job.id, 'at', at, 'data', data)
  if not rung[job.person] then redis.call('PEXPIRE', key, EVENTS_KEPT_FOR) end
  local knock = PASSING[kind] and 'soon ' .. job.person or job.person
  if rung[job.person] == knock or rung[job.person] == job.person then return end
  rung[job.person] = knock
  redis.call('PUBLISH', 'telepatch:doorbell', knock)
end

-- What happened so far, for those who watch: attempts, reclaimed, and failed:CODE.
local function tell(model, what) redis.call('HINCRBY', lane_key(model, 'totals'), what, 1) end
-- What a person has used up today (UTC), as whole numbers, for the accounts that usage.py reads.
local function account(person, at, what, amount)
  local key = person_key(person, 'usage:' .. math.floor(at / DAY))
  if redis.call('HINCRBY', key, what, string.format('%.0f', amount)) ~= amount then return end
  redis.call('PEXPIRE', key, USAGE_KEPT)
  redis.call('SADD', 'telepatch:people', person)
end

-- Jobs of the interactive lane that are with one worker share its time. Its clock runs at the speed that each of them gets,
-- so what a job comes to is the difference of two readings, and all of them together come to the time that went by.
local function clock_of(worker, change, at)
  local key = 'telepatch:clock:' .. worker
  local jobs, time, seen = string.match(redis.call('GET', key) or '', '^(%d+) ([%d.]+) (%d+)$')
  jobs, time = tonumber(jobs or 0), tonumber(time or 0)
  if jobs > 0 then time = time + (at - tonumber(seen)) / jobs end
  if jobs + change > 0 then
    redis.call('SET', key, string.format('%d %.3f %d', jobs + change, time, at))
  else
    redis.call('DEL', key)
  end
  return time
end

local function start_clock(job, at)
  local since = job.lane == 'long' and at or clock_of(job.worker, 1, at)
  redis.call('HSET', job_key(job.id), 'since', string.format('%.3f', since))
end

local function stop_clock(job, at)
  if job.since == '' then return end
  local time = job.lane == 'long' and at or clock_of(job.worker, -1, at)
  job.share = math.max(0, time - tonumber(job.since)) / 1000
end

-- Numbers of waiting, queued and running jobs are those of now; of ended jobs, since ever.
local function move(job, state)
  if state == 'running' then start_clock(job, now()) elseif job.state == 'running' then stop_clock(job, now()) end
  local counts = lane_key(job.model, 'counts')
  if job.state ~= '' then redis.call('HINCRBY', counts, job.state, -1) end
  redis.call('HINCRBY', counts, state, 1)
  redis.call('HSET', job_key(job.id), 'state', state)
  job.state = state
end

local function wake(model)
  local key = lane_key(model, 'wake')
  if redis.call('LLEN', key) == 0 then redis.call('RPUSH', key, '1') end
end

-- About how many jobs go first: people take turns, so those of one's own that do wait for as many of everybody else.
local function position(job, index)
  local people = line_key(job.model, job.lane, 'people')
  local queued = tonumber(redis.call('HGET', lane_key(job.model, 'counts'), 'queued') or 1)
  local rank = redis.call('ZRANK', people, job.person) or 0
  for _, priority in ipairs(PRIORITIES) do
    if priority == priority_of(job) then break end
    index = index + redis.call('LLEN', list_key(job, priority))
  end
  return math.max(0, math.min(queued - 1, index * redis.call('ZCARD', people) + rank))
end

-- What a person has been served in a lane: neither debt nor credit is kept from idle times.
local function served(job)
  local clock = tonumber(redis.call('GET', line_key(job.model, job.lane, 'clock')) or 0)
  return math.max(clock, tonumber(redis.call('ZSCORE', line_key(job.model, job.lane, 'served'), job.person) or 0))
end

-- A person who comes back starts where the others are now.
local function enter(job)
  local people = line_key(job.model, job.lane, 'people')
  if redis.call('ZSCORE', people, job.person) then return end
  redis.call('ZADD', people, served(job), job.person)
  redis.call('ZREM', line_key(job.model, job.lane, 'served'), job.person)
end

-- Somebody's first job of high priority has come, or the last one has gone.
local function hurry(job, length)
  if priority_of(job) ~= 'high' or length ~= 1 then return end
  redis.call('ZINCRBY', line_key(job.model, job.lane, 'people'), -HEAD_START[job.lane], job.person)
end

local function hurry_no_more(job)
  if priority_of(job) ~= 'high' or redis.call('EXISTS', queue_key(job)) == 1 then return end
  redis.call('ZINCRBY', line_key(job.model, job.lane, 'people'), HEAD_START[job.lane], job.person)
end

local function leave_if_idle(job)
  hurry_no_more(job)
  for _, priority in ipairs(PRIORITIES) do
    if redis.call('EXISTS', list_key(job, priority)) == 1 then return end
  end
  local people = line_key(job.model, job.lane, 'people')
  local time = redis.call('ZSCORE', people, job.person)
  if time then redis.call('ZADD', line_key(job.model, job.lane, 'served'), time, job.person) end
  redis.call('ZREM', people, job.person)
end

local function enqueue(job, at, front)
  local length = redis.call(front and 'LPUSH' or 'RPUSH', queue_key(job), job.id)
  enter(job)
  hurry(job, length)
  move(job, 'queued')
  redis.call('HSET', job_key(job.id), 'queued', at)
  event(job, 'queued', at, cjson.encode({ position = position(job, front and 0 or length - 1) }))
  wake(job.model)
end

-- Back from a worker to the front of its queue; what it has come to since its start stays.
local function put_back(job, at)
  redis.call('ZREM', lane_key(job.model, 'leases'), job.id)
  redis.call('HDEL', job_key(job.id), 'worker')
  if redis.call('HEXISTS', job_key(job.id), 'checkpoint') == 0 then redis.call('HDEL', job_key(job.id), 'started') end
  enqueue(job, at, true)
end

local function discard_blob(name, due)
  redis.call('ZADD', GARBAGE, due, name)
end

-- Bytes of an upload that was deleted while jobs needed it count until they are gone.
local function release_blob(name, at)
  if redis.call('HINCRBY', USES, name, -1) > 0 then return end
  redis.call('HDEL', USES, name)
  discard_blob(name, at + GRACE)
  local bytes, person = string.match(redis.call('HGET', OWED, name) or '', '^(%d+) (.+)$')
  if bytes then redis.call('HINCRBY', UPLOADED, person, '-' .. bytes) end
  redis.call('HDEL', OWED, name)
end

local function blobs_of(job)
  local names = {}
  if job.uses ~= '' then table.insert(names, job.uses) end
  for _, name in pairs(job.data ~= '' and cjson.decode(job.data) or {}) do table.insert(names, name) end
  return names
end

-- All parts of an upload but the one that is the whole.
local function discard_parts(key, at, kept)
  for _, name in ipairs(redis.call('LRANGE', key .. ':parts', 0, -1)) do
    if name ~= kept then discard_blob(name, at + GRACE) end
  end
  redis.call('DEL', key .. ':parts')
end

-- What an ended job has come to, and what it was to come to. `told`: seconds that it ran, as its worker says, which counts
-- for as much as it shared with others; of a job that trains, less what its checkpoints have accounted for.
local function settle(job, at)
  if job.promised ~= '' then
    redis.call('HINCRBY', UNENDED, job.person, -1)
    if job.promised ~= '0' then redis.call('HINCRBY', PROMISED, job.person, '-' .. job.promised) end
  end
  local seconds = job.share
  if job.told and job.lane == 'long' then
    seconds = math.max(0, job.told - (tonumber(job.charged) or 0))
  elseif job.told and job.told > 0 then
    seconds = math.min(job.share or job.told, job.told)
  end
  if not seconds then return end
  account(job.person, at, 'jobs', 1)
  account(job.person, at, 'us', math.floor(seconds * 1e6 + 0.5))
  if job.bytes then account(job.person, at, 'bytes', job.bytes) end
end

-- Ends a job that has not ended: nothing but its record, its result and its place in the person's list stays.
local function close(job, state, at, data)
  if job.state == 'queued' then
    redis.call('LREM', queue_key(job), 1, job.id)
    leave_if_idle(job)
  elseif job.state == 'running' then
    redis.call('ZREM', lane_key(job.model, 'leases'), job.id)
  end
  move(job, state)
  settle(job, at)
  redis.call('HSET', job_key(job.id), 'ended', at)
  local checkpoint = redis.call('HGET', job_key(job.id), 'checkpoint')
  if checkpoint then discard_blob(checkpoint, at + GRACE) end
  redis.call('HDEL', job_key(job.id), 'document', 'tokens', 'attachment', 'uses', 'data', 'pending', 'checkpoint', 'spent',
    'promised', 'charged', 'since', 'losses')
  for _, name in ipairs(blobs_of(job)) do release_blob(name, at) end
  for parent in pairs(cjson.decode(job.parents)) do
    redis.call('HINCRBY', job_key(parent), 'pins', -1)
  end
  redis.call('ZADD', EXPIRY, at + tonumber(job.keep), job.id)
  event(job, state, at, data)
end

local function dependency_failed(job, parent, what)
  local source = cjson.decode(job.parents)[parent]
  return cjson.encode({
    code = 'dependency_failed', parent = parent, node = source.node, file = source.file, line = source.line,
    detail = 'job ' .. parent .. ', whose value is used here, ' .. what,
  })
end

local function close_failed(job, at, record)
  tell(job.model, 'failed:' .. cjson.decode(record).code)
  redis.call('HSET', job_key(job.id), 'error', record)
  close(job, 'failed', at, '{"error":' .. record .. '}')
end

-- Fails everything that waits for a job, and what waits for that, and so on.
local function fail_children(id, at, what)
  local left = { { id, what } }
  while #left > 0 do
    local parent, reason = unpack(table.remove(left))
    for _, child in ipairs(redis.call('LRANGE', children_key(parent), 0, -1)) do
      local job = read(child)
      if job and job.state == 'waiting' then
        close_failed(job, at, dependency_failed(job, parent, reason))
        table.insert(left, { child, 'could not run' })
      end
    end
    redis.call('DEL', children_key(parent))
  end
end

local function release_children(id, at)
  for _, child in ipairs(redis.call('LRANGE', children_key(id), 0, -1)) do
    local job = read(child)
    if job and job.state == 'waiting' and redis.call('HINCRBY', job_key(child), 'pending', -1) <= 0 then
      enqueue(job, at, false)
    end
  end
  redis.call('DEL', children_key(id))
end

-- Notes that a worker ended with; both are JSON, and `warnings` that do not stand there yet are added.
local function remember_run(id, warnings, seconds)
  local all = cjson.decode(redis.call('HGET', job_key(id), 'warnings') or '[]')
  local known = {}
  for _, warning in ipairs(all) do known[warning] = true end
  for _, warning in ipairs(cjson.decode(warnings)) do
    if not known[warning] then table.insert(all, warning) end
  end
  redis.call('HSET', job_key(id), 'warnings', #all > 0 and cjson.encode(all) or '[]', 'seconds', seconds)
end

-- Jobs that their workers died of, kept for whoever runs the service: outside the person's own records, so that they do
-- not go with them.
local IN_QUARANTINE = { 'person', 'model', 'lane', 'cost', 'group', 'document', 'tokens', 'attachment', 'uses', 'data', 'price',
  'saves', 'parents', 'submitted', 'attempts', 'losses', 'priority' }

local function drop_quarantined(id, at)
  local key = quarantine_key(id)
  local uses, data = unpack(redis.call('HMGET', key, 'uses', 'data'))
  for _, name in ipairs(blobs_of({ uses = uses or '', data = data or '' })) do release_blob(name, at) end
  redis.call('DEL', key)
  return redis.call('ZREM', QUARANTINE, id)
end

local function quarantine(job, at, most)
  local values, fields = redis.call('HMGET', job_key(job.id), unpack(IN_QUARANTINE)), { 'at', at }
  for i, field in ipairs(IN_QUARANTINE) do
    if values[i] then
      table.insert(fields, field)
      table.insert(fields, values[i])
    end
  end
  redis.call('HSET', quarantine_key(job.id), unpack(fields))
  redis.call('ZADD', QUARANTINE, at, job.id)
  for _, name in ipairs(blobs_of(job)) do redis.call('HINCRBY', USES, name, 1) end
  for _, id in ipairs(redis.call('ZRANGE', QUARANTINE, 0, -1 - most)) do drop_quarantined(id, at) end
end
