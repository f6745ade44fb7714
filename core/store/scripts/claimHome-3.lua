-- Moves a user's home, and grants the next epoch, when the claimer knows the current one.
-- A home that is not known here is granted too, and counts on from the claimer's number.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] homes (HASH)
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] user id
-- ARGV[4] replica
-- ARGV[5] expected epoch number
-- ARGV[6] owner
-- ARGV[7] how long a home stays at least, in ms
-- Returns { GRANTED, home } or { REFUSED, home as it is }

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local homesKey = KEYS[3]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local userId = ARGV[3]
local replica = ARGV[4]
local expectedEpoch = tonumber(ARGV[5])
local owner = ARGV[6]
local minStayMs = tonumber(ARGV[7])
local GRANTED = 1
local REFUSED = 0

--- @include "clock"
--- @include "openMeta"
--- @include "publish"

local stored = redis.call('HGET', homesKey, userId)
if stored then
  local known = cjson.decode(stored)
  local stayedMs = nowMs - known.movedAtMs
  -- A clock that was set back says nothing about how long the home stayed.
  local tooSoon = stayedMs >= 0 and stayedMs < minStayMs
  if known.epoch.number ~= expectedEpoch or tooSoon then return { REFUSED, stored } end
end
local home = {
  userId = userId,
  replica = replica,
  epoch = { number = expectedEpoch + 1, owner = owner },
  movedAtMs = nowMs,
}
local text = cjson.encode(home)
redis.call('HSET', homesKey, userId, text)
publish(metaKey, changesKey, freshClusterId, changesKept, { { type = 'home', home = home } })
return { GRANTED, text }
