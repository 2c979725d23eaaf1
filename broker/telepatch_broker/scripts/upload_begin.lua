-- Announces an upload, and counts its bytes. ARGV: person, digest, bytes, most bytes of a person, how long it may wait in ms.
-- Returns new, known and with how many bytes, or full and how many are counted already.
local person, digest, bytes, most, keep = unpack(ARGV)
local key, at = upload_key(person, digest), now()
local known = redis.call('HGET', key, 'bytes')
if known then return { 'known', tonumber(known) } end
local used = tonumber(redis.call('HGET', UPLOADED, person) or 0)
if used + tonumber(bytes) > tonumber(most) then return { 'full', used } end

redis.call('HINCRBY', UPLOADED, person, bytes)
redis.call('HSET', key, 'bytes', bytes, 'received', 0, 'created', at)
redis.call('ZADD', person_key(person, 'uploads'), at, digest)
redis.call('ZADD', UNFINISHED, at + tonumber(keep), person .. ' ' .. digest)
return { 'new', used }
