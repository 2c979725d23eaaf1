-- Stands behind common.lua, before every script: keys of people. The names are those of keys.py.

local KEYED, IMPORTED, PEOPLE = 'telepatch:keyed', 'telepatch:imported', 'telepatch:people'
-- A key that has ended is told of for so long, to its owner and to whoever lists keys.
local ENDED_KEY_KEPT = 30 * 24 * 3600 * 1000

local function api_key(id) return 'telepatch:key:' .. id end
local function secret_key(digest) return 'telepatch:secret:' .. digest end

local function end_key(id, expires)
  redis.call('HSET', api_key(id), 'expires', string.format('%d', expires))
  redis.call('PEXPIREAT', api_key(id), string.format('%d', expires + ENDED_KEY_KEPT))
  local digest = redis.call('HGET', api_key(id), 'digest')
  if digest then redis.call('PEXPIREAT', secret_key(digest), string.format('%d', expires + ENDED_KEY_KEPT)) end
end

local function new_key(id, person, scope, digest, expires, at)
  redis.call('HSET', api_key(id), 'person', person, 'scope', scope, 'created', at)
  if digest ~= '' then
    redis.call('HSET', api_key(id), 'digest', digest)
    redis.call('SET', secret_key(digest), id)
  end
  redis.call('ZADD', person_key(person, 'keys'), at, id)
  redis.call('SADD', PEOPLE, person)
  -- Stays when the last key goes: a service that once had keys is never open to everybody again.
  redis.call('SET', KEYED, '1')
  if expires ~= '' then end_key(id, tonumber(expires)) end
end

local function drop_key(id)
  local person, digest = unpack(redis.call('HMGET', api_key(id), 'person', 'digest'))
  if not person then return 0 end
  if digest then redis.call('DEL', secret_key(digest)) end
  redis.call('DEL', api_key(id))
  redis.call('SREM', IMPORTED, id)
  redis.call('ZREM', person_key(person, 'keys'), id)
  return 1
end
