-- Announces an upload, and counts its bytes. ARGV: person, digest, bytes, most bytes of a person with those of results (''
-- for no limit) and most uploads, how long it may wait in ms. Returns new, known and with how many bytes, full and how many
-- are counted already, or many.
local person, digest, bytes, most, most_uploads, keep = unpack(ARGV)
local key, at = upload_key(person, digest), now()
local known = redis.call('HGET', key, 'bytes')
if known then return { 'known', tonumber(known) } end
local used = 0
for _, where in ipairs({ UPLOADED, STORED, PROMISED }) do used = used + tonumber(redis.call('HGET', where, person) or 0) end
if most ~= '' and used + tonumber(bytes) > tonumber(most) then return { 'full', used } end
if redis.call('ZCARD', person_key(person, 'uploads')) >= tonumber(most_uploads) then return { 'many', 0 } end

redis.call('HINCRBY', UPLOADED, person, bytes)
redis.call('HSET', key, 'bytes', bytes, 'received', 0, 'created', at)
redis.call('ZADD', person_key(person, 'uploads'), at, digest)
redis.call('ZADD', UNFINISHED, at + tonumber(keep), person .. ' ' .. digest)
return { 'new', used }
