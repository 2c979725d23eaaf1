-- Accepts jobs; parents must come before their children.
-- ARGV: number of jobs, then for each: id, then the 18 values named below.
-- Returns for each: new, same, conflict, unknown or deleted; its state, the id of the unknown parent, or the deleted upload.
local NAMES = { 'person', 'model', 'digest', 'cost', 'alone', 'group', 'document', 'tokens', 'attachment', 'uses', 'price',
  'saves', 'warnings', 'parents', 'keep', 'data', 'lane', 'origin' }
local at, answers = now(), {}

local function known(id, job)
  local stored = redis.call('HMGET', job_key(id), 'digest', 'person', 'state')
  if not stored[1] then return nil end
  if stored[1] == job.digest and stored[2] == job.person then return { 'same', stored[3] } end
  return { 'conflict', '' }
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
  redis.call('SADD', MODELS, job.model)
  for _, name in ipairs(blobs_of(job)) do
    redis.call('HINCRBY', USES, name, 1)
    redis.call('ZREM', GARBAGE, name)
  end
end

local function accept(job)
  local answer = known(job.id, job)
  if answer then return answer end
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
  local first = 2 + i * (#NAMES + 1)
  local job = { id = ARGV[first] }
  for j, name in ipairs(NAMES) do job[name] = ARGV[first + j] end
  table.insert(answers, accept(job))
end
return answers
