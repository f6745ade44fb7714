-- Grants the lease to whoever holds the lock, which is told by the lock's value: the same epoch while it is
-- held without a break, else the next number. It is higher than every number that the claimer names, so that
-- data which lost their last writes do not give a number twice.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] lock (STRING)
-- KEYS[4] lease (STRING)
-- KEYS[5] leaseEpoch (STRING)
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] the lock's value as the claimer knows it (nothing: it holds no lock and only asks)
-- ARGV[4] owner
-- ARGV[5] replica
-- ARGV[6] where its gate listens, or nothing
-- ARGV[7] a number that the granted one must exceed, also when the lease is held already
-- ARGV[8] the highest number that this owner was ever granted
-- Returns { GRANTED, lease, '0' } or { REFUSED, lease as it is or nothing, ms until the lock ends }

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local lockKey = KEYS[3]
local leaseKey = KEYS[4]
local leaseEpochKey = KEYS[5]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local value = ARGV[3]
local owner = ARGV[4]
local replica = ARGV[5]
local gateUrl = ARGV[6]
local above = tonumber(ARGV[7])
local ownNumber = tonumber(ARGV[8])
local GRANTED = 1
local REFUSED = 0

--- @include "clock"
--- @include "openMeta"
--- @include "publish"

local stored = redis.call('GET', leaseKey)
if redis.call('GET', lockKey) ~= value then
  return { REFUSED, stored or '', string.format('%.0f', math.max(redis.call('PTTL', lockKey), 0)) }
end
local known = stored and cjson.decode(stored)
if known and known.lock == value and known.epoch.number > above and known.epoch.number >= ownNumber
  and known.replica == replica and known.gateUrl == gateUrl then
  return { GRANTED, stored, '0' }
end

local base = math.max(above, ownNumber, known and known.epoch.number or 0)
if tonumber(redis.call('GET', leaseEpochKey) or 0) < base then
  redis.call('SET', leaseEpochKey, string.format('%.0f', base))
end
local number = redis.call('INCR', leaseEpochKey)
local lease = { epoch = { number = number, owner = owner }, replica = replica, gateUrl = gateUrl }
publish(metaKey, changesKey, freshClusterId, changesKept, { { type = 'lease', lease = lease } })
lease.lock = value
local text = cjson.encode(lease)
redis.call('SET', leaseKey, text)
return { GRANTED, text, '0' }
