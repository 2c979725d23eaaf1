-- Makes an API key known. ARGV: id, person, scope, digest of the key, Unix time in ms at which it ends ('' never), then for
-- a key of an old keys file, whose digest is not known yet, its salt and its salted hash. Returns 1, or 0 where it is known.
local id, person, scope, digest, expires, salt, hash = unpack(ARGV)
if redis.call('EXISTS', api_key(id)) == 1 then return 0 end
if digest ~= '' and redis.call('EXISTS', secret_key(digest)) == 1 then return 0 end
new_key(id, person, scope, digest, expires, now())
if digest == '' then
  redis.call('HSET', api_key(id), 'salt', salt, 'hash', hash)
  redis.call('SADD', IMPORTED, id)
end
return 1
