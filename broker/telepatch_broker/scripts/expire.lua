-- Drops results whose time is over, later the records too. What waiting jobs will read stays.
-- ARGV: most jobs, how long records stay after their results in ms. Returns the number of results dropped and of jobs seen.
local at, dropped = now(), 0
local ids = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', at, 'LIMIT', 0, ARGV[1])

local function drop_result(id, blob)
  redis.call('HSET', job_key(id), 'expired', '1')
  local person, stored = unpack(redis.call('HMGET', job_key(id), 'person', 'stored'))
  if stored and stored ~= '0' then redis.call('HINCRBY', STORED, person, '-' .. stored) end
  redis.call('HDEL', job_key(id), 'inline', 'blob', 'stored')
  if blob then discard_blob(blob, at + GRACE) end
  redis.call('HSET', job_key(id), 'dropped', '1')
  redis.call('ZADD', EXPIRY, at + tonumber(ARGV[2]), id)
  dropped = dropped + 1
end

local function forget(id, person)
  redis.call('DEL', job_key(id), children_key(id))
  redis.call('ZREM', person_key(person, 'jobs'), id)
  redis.call('ZREM', EXPIRY, id)
end

for _, id in ipairs(ids) do
  local person, pins, blob, was_dropped = unpack(redis.call('HMGET', job_key(id), 'person', 'pins', 'blob', 'dropped'))
  if tonumber(pins or 0) > 0 then redis.call('ZADD', EXPIRY, at + GRACE, id)
  elseif was_dropped then forget(id, person)
  else drop_result(id, blob) end
end
return { dropped, #ids }
