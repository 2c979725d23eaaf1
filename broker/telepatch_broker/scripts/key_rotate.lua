-- A new key in the place of another, which is good for a while longer. ARGV: id of the old one, id and digest of the new
-- one, how long the old one stays good in ms. Returns 1, or 0 where there is no such key that is still good.
local old, id, digest, grace = unpack(ARGV)
local at = now()
-- The answer to the first try may have been lost on its way.
if redis.call('HGET', api_key(id), 'digest') == digest then return 1 end
local person, scope, created, expires = unpack(redis.call('HMGET', api_key(old), 'person', 'scope', 'created', 'expires'))
if not person or (expires and tonumber(expires) <= at) then return 0 end

-- What was made for a time is good for as long again.
new_key(id, person, scope, digest, expires and at + tonumber(expires) - tonumber(created) or '', at)
if tonumber(grace) <= 0 then
  drop_key(old)
else
  local ends = math.min(at + tonumber(grace), tonumber(expires or math.huge))
  end_key(old, ends)
end
return 1
