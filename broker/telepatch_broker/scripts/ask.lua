-- Whose key this is, and whether its owner may ask now: one step for each request, so a key that was removed is worthless at
-- once, on every gateway. ARGV: digest of the key, requests per minute of those who have no limit of their own ('' none).
-- Returns unknown and how many keys of old files were never shown; expired and since when; or known, id, person, scope, how
-- long to wait in ms (0: not at all), and the person's own limits, names and values.
local digest, most = unpack(ARGV)
local id, at = redis.call('GET', secret_key(digest)), now()
if not id then return { 'unknown', redis.call('SCARD', IMPORTED) } end
local person, scope, expires, used = unpack(redis.call('HMGET', api_key(id), 'person', 'scope', 'expires', 'used'))
if not person then return { 'unknown', 0 } end
if expires and tonumber(expires) <= at then return { 'expired', expires } end

-- Who asks steadily may ask every `step` ms; who was quiet for a minute may ask that much at once.
local function pace(limit)
  local step, key = 60000 / limit, person_key(person, 'pace')
  local due = math.max(at, tonumber(redis.call('GET', key) or 0))
  local wait = math.ceil(due + step - at - 60000)
  if wait > 0 then return wait end
  redis.pcall('SET', key, string.format('%.3f', due + step), 'PX', 120000)
  return 0
end

local limits = redis.call('HGETALL', person_key(person, 'limits'))
for i = 1, #limits, 2 do
  if limits[i] == 'requests_per_minute' then most = limits[i + 1] end
end
-- To the minute is near enough, and spares a write for most requests. A server that does not write still knows who asks.
if not used or at - tonumber(used) > 60000 then redis.pcall('HSET', api_key(id), 'used', at) end
return { 'known', id, person, scope, tonumber(most) and pace(tonumber(most)) or 0, limits }
