-- Accepts jobs; parents must come before their children.
-- ARGV: number of jobs, the most unended jobs, stored bytes and seconds of today that their owner may have (each '' for no
-- limit), then for each: id, then the 21 values named below. Returns for each: new, same, conflict, unknown, deleted, many,
-- full or spent; its state, the id of the unknown parent, the deleted upload, or how much the owner has of what is limited.
local NAMES = { 'person', 'model', 'digest', 'cost', 'alone', 'group', 'document', 'tokens', 'attachment', 'uses', 'price',
  'saves', 'warnings', 'parents', 'keep', 'data', 'lane', 'promised', 'priority', 'timeout', 'origin' }
local most_jobs, most_bytes, most_seconds = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local at, answers, kept_out = now(), {}, {}

local function known(id, job)
  local stored = redis.call('HMGET', job_key(id), 'digest', 'person', 'state')
  if not stored[1] then return nil end
  if stored[1] == job.digest and stored[2] == job.person then return { 'same', stored[3] } end
  return { 'conflict', '' }
end

local function number_of(name, where) return tonumber(redis.call('HGET', where, name) or 0) end

-- Why the owner may not have one more job, or one that saves as much; what uses its values stays out with it.
local function over_limit(job)
  if next(kept_out) then
    for parent in pairs(cjson.decode(job.parents)) do
      if kept_out[parent] then return kept_out[parent] end
    end
  end
  if most_seconds then
    local spent = number_of('us', person_key(job.person, 'usage:' .. math.floor(at / DAY))) / 1e6
    if spent >= most_seconds then return { 'spent', string.format('%.1f', spent) } end
  end
  if most_jobs then
    local unended = number_of(job.person, UNENDED)
    if unended >= most_jobs then return { 'many', tostring(unended) } end
  end
  if most_bytes then
    local used = number_of(job.person, UPLOADED) + number_of(job.person, STORED) + number_of(job.person, PROMISED)
    if used + tonumber(job.promised) > most_bytes then return { 'full', string.format('%d', used) } end
  end
end

-- How many parents have not ended; the id of one that is not there; or of one that cannot help any more, and why.
local function look_at_parents(job)
  local pending, lost, why = 0, nil, nil
  for parent in pairs(cjson.decode(job.parents)) do
    local stored = redis.call('HMGET', job_key(parent), 'state', 'person', 'expired')
    if not stored[1] or stored[2] ~= job.person then return pending, nil, nil, parent end
    if stored[1] == 'failed' then lost, why = parent, 'failed'
    elseif stored[1] == 'cancelled' then lost, why = parent, 'was cancelled'
    elseif stored[3] then lost, why = parent, 'is no longer kept'
    elseif stored[1] ~= 'completed' then pending = pending + 1 end
  end
  return pending, lost, why, nil
end

-- An upload that was deleted after the gateway has looked.
local function deleted(job)
  for digest, blob in pairs(job.data ~= '' and cjson.decode(job.data) or {}) do
    if redis.call('HGET', upload_key(job.person, digest), 'blob') ~= blob then return digest end
  end
end

local function tie_to_parents(job)
  for parent in pairs(cjson.decode(job.parents)) do
    redis.call('HINCRBY', job_key(parent), 'pins', 1)
    if not ENDED[redis.call('HGET', job_key(parent), 'state')] then
      redis.call('RPUSH', children_key(parent), job.id)
    end
  end
end

local function store(job)
  local fields = { 'submitted', at, 'attempts', 0 }
  for _, name in ipairs(NAMES) do
    if job[name] ~= '' then
      table.insert(fields, name)
      table.insert(fields, job[name])
    end
  end
  redis.call('HSET', job_key(job.id), unpack(fields))
  redis.call('ZADD', person_key(job.person, 'jobs'), 0, job.id)
  redis.call('HINCRBY', UNENDED, job.person, 1)
  if job.promised ~= '0' then redis.call('HINCRBY', PROMISED, job.person, job.promised) end
  redis.call('SADD', MODELS, job.model)
  for _, name in ipairs(blobs_of(job)) do
    redis.call('HINCRBY', USES, name, 1)
    redis.call('ZREM', GARBAGE, name)
  end
end

local function accept(job)
  local answer = known(job.id, job)
  if answer then return answer end
  kept_out[job.id] = over_limit(job)
  if kept_out[job.id] then return kept_out[job.id] end
  local pending, lost, why, unknown = look_at_parents(job)
  if unknown then return { 'unknown', unknown } end
  local gone = deleted(job)
  if gone then return { 'deleted', gone } end
  store(job)
  tie_to_parents(job)
  job.state = ''
  if lost then
    close_failed(job, at, dependency_failed(job, lost, why))
  elseif pending > 0 then
    move(job, 'waiting')
    redis.call('HSET', job_key(job.id), 'pending', pending)
    event(job, 'waiting', at, '{}')
  else
    enqueue(job, at, false)
  end
  return { 'new', job.state }
end

for i = 0, tonumber(ARGV[1]) - 1 do
  local first = 5 + i * (#NAMES + 1)
  local job = { id = ARGV[first] }
  for j, name in ipairs(NAMES) do job[name] = ARGV[first + j] end
  table.insert(answers, accept(job))
end
return answers
