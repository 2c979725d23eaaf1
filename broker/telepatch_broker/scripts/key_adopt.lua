-- A key of an old keys file was shown for the first time: from now on it is found by its digest. ARGV: id, digest.
-- Returns 1, or 0 where it has been removed.
local id, digest = unpack(ARGV)
local expires = redis.call('HGET', api_key(id), 'expires')
if redis.call('EXISTS', api_key(id)) == 0 then return 0 end
redis.call('HSET', api_key(id), 'digest', digest)
redis.call('HDEL', api_key(id), 'salt', 'hash')
redis.call('SREM', IMPORTED, id)
redis.call('SET', secret_key(digest), id)
if expires then end_key(id, tonumber(expires)) end
return 1
