-- All parts have come and were found to be right. ARGV: person, digest, the blob with all bytes, columns as JSON.
-- Returns 1, or 0 when the upload is not there any more, or complete already.
local person, digest, name, columns = unpack(ARGV)
local key, at = upload_key(person, digest), now()
local bytes, received, blob = unpack(redis.call('HMGET', key, 'bytes', 'received', 'blob'))
-- The answer to the first try may have been lost on its way.
if blob == name then return 1 end
if not bytes or blob or bytes ~= received then return 0 end

discard_parts(key, at, name)
redis.call('HSET', key, 'blob', name, 'columns', columns)
redis.call('HINCRBY', USES, name, 1)
redis.call('ZREM', GARBAGE, name)
redis.call('ZREM', UNFINISHED, person .. ' ' .. digest)
return 1
