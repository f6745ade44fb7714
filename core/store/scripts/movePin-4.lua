-- Moves a pin to another replica, prolongs it, or makes it, when the claimer knows its epoch. The number
-- grows only when the replica changes. A pin that is not known here counts on from the claimer's number.
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
-- ARGV[7] how long the pin holds from now on, in ms
-- ARGV[8] expected epoch number (0: there is no such pin)
-- Returns { GRANTED, pin } or { REFUSED, pin as it is }

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
local expectedEpoch = tonumber(ARGV[8])
local GRANTED = 1
local REFUSED = 0

--- @include "clock"
--- @include "openMeta"
--- @include "publish"
--- @include "purgeExpired"
--- @include "changesExpiry"

purgeExpired(pinsKey, pinExpiryKey)
local field = kind .. ':' .. id
local stored = redis.call('HGET', pinsKey, field)
local known = stored and cjson.decode(stored)
if known and known.expiresAtMs <= nowMs then known = nil end
if known and known.epoch.number ~= expectedEpoch then return { REFUSED, stored } end

local expiresAtMs = nowMs + ttlMs
local pin = { kind = kind, id = id, replica = replica, expiresAtMs = expiresAtMs }
if known and known.replica == replica then
  if not changesExpiry(known.expiresAtMs, expiresAtMs, ttlMs) then return { GRANTED, stored } end
  pin.epoch = known.epoch
else
  pin.epoch = { number = expectedEpoch + 1, owner = owner }
end
local text = cjson.encode(pin)
redis.call('HSET', pinsKey, field, text)
redis.call('ZADD', pinExpiryKey, expiresAtMs, field)
publish(metaKey, changesKey, freshClusterId, changesKept, { { type = 'pin', pin = pin } })
return { GRANTED, text }
