-- One more part. ARGV: person, digest, where it begins, its blob, its bytes, how long the next one may take in ms, most
-- parts. Returns 1, 0 when the upload is not there any more, complete, or at another place, or -1 when it has too many parts.
local person, digest, start, name, bytes, keep, most = unpack(ARGV)
local key = upload_key(person, digest)
-- The answer to the first try may have been lost on its way.
if redis.call('LINDEX', key .. ':parts', -1) == name then return 1 end
local received, blob = unpack(redis.call('HMGET', key, 'received', 'blob'))
if not received or blob or tonumber(received) ~= tonumber(start) then return 0 end
if redis.call('LLEN', key .. ':parts') >= tonumber(most) then return -1 end

redis.call('HINCRBY', key, 'received', bytes)
redis.call('RPUSH', key .. ':parts', name)
redis.call('ZREM', GARBAGE, name)
redis.call('ZADD', UNFINISHED, now() + tonumber(keep), person .. ' ' .. digest)
return 1
