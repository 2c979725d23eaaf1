-- Stores an edit. ARGV: person, name, document, version, most edits of a person. Returns 1 for a new one, 0 for one that
-- was there, -1 where there are too many.
local person, name, document, version, most = unpack(ARGV)
local key = person_key(person, 'edits')
local known = redis.call('HEXISTS', key, name)
if known == 0 and redis.call('HLEN', key) >= tonumber(most) then return -1 end
redis.call('HSET', key, name, string.format('%d %s %s', now(), version, document))
return 1 - known
