-- Forgets an upload. ARGV: person, digest, 'unfinished' where only its time being over is a reason. Returns 1, or 0.
local person, digest, why = unpack(ARGV)
local key, at, member = upload_key(person, digest), now(), person .. ' ' .. digest
local bytes, blob = unpack(redis.call('HMGET', key, 'bytes', 'blob'))
if why == 'unfinished' then
  local due = redis.call('ZSCORE', UNFINISHED, member)
  if not due or tonumber(due) > at then return 0 end
  redis.call('ZREM', UNFINISHED, member)
end
if not bytes then return 0 end

discard_parts(key, at, nil)
redis.call('DEL', key)
redis.call('ZREM', person_key(person, 'uploads'), digest)
redis.call('ZREM', UNFINISHED, member)
if blob then
  redis.call('HSET', OWED, blob, bytes .. ' ' .. person)
  release_blob(blob, at)
else
  redis.call('HINCRBY', UPLOADED, person, '-' .. bytes)
end
return 1
