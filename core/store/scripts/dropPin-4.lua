-- Ends a pin when its epoch is the one that is meant. Followers are told a pin whose time is over.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] pins (HASH)
-- KEYS[4] pinExpiry (ZSET)
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] kind
-- ARGV[4] id
-- ARGV[5] expected epoch number
-- Returns DONE or UNCHANGED

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local pinsKey = KEYS[3]
local pinExpiryKey = KEYS[4]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local kind = ARGV[3]
local id = ARGV[4]
local expectedEpoch = tonumber(ARGV[5])
local DONE = 1
local UNCHANGED = 0

--- @include "clock"
--- @include "openMeta"
--- @include "publish"

local field = kind .. ':' .. id
local stored = redis.call('HGET', pinsKey, field)
if not stored then return UNCHANGED end
local pin = cjson.decode(stored)
if pin.expiresAtMs <= nowMs or pin.epoch.number ~= expectedEpoch then return UNCHANGED end
redis.call('HDEL', pinsKey, field)
redis.call('ZREM', pinExpiryKey, field)
pin.expiresAtMs = 0
publish(metaKey, changesKey, freshClusterId, changesKept, { { type = 'pin', pin = pin } })
return DONE
