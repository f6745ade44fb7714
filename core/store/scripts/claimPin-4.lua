-- Binds something to one replica's memory for a while. The first claim wins until it expires.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] pins (HASH)
-- KEYS[4] pinExpiry (ZSET)
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] kind
-- ARGV[4] id
-- ARGV[5] replica
-- ARGV[6] owner
-- ARGV[7] how long the pin holds, in ms
-- Returns the pin as it is now

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local pinsKey = KEYS[3]
local pinExpiryKey = KEYS[4]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local kind = ARGV[3]
local id = ARGV[4]
local replica = ARGV[5]
local owner = ARGV[6]
local ttlMs = tonumber(ARGV[7])

--- @include "clock"
--- @include "openMeta"
--- @include "publish"
--- @include "purgeExpired"

purgeExpired(pinsKey, pinExpiryKey)
local field = kind .. ':' .. id
local stored = redis.call('HGET', pinsKey, field)
if stored and cjson.decode(stored).expiresAtMs > nowMs then return stored end
local pin = {
  kind = kind,
  id = id,
  replica = replica,
  epoch = { number = 1, owner = owner },
  expiresAtMs = nowMs + ttlMs,
}
local text = cjson.encode(pin)
redis.call('HSET', pinsKey, field, text)
redis.call('ZADD', pinExpiryKey, pin.expiresAtMs, field)
publish(metaKey, changesKey, freshClusterId, changesKept, { { type = 'pin', pin = pin } })
return text
