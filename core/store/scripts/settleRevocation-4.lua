-- A replica has logged out a revocation's tokens; after the last one the revocation is gone.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] revocations (HASH)
-- KEYS[4] revocationExpiry (ZSET)
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] revocation id
-- ARGV[4] replica
-- Returns DONE or UNCHANGED

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local revocationsKey = KEYS[3]
local revocationExpiryKey = KEYS[4]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local revocationId = ARGV[3]
local replica = ARGV[4]
local DONE = 1
local UNCHANGED = 0

--- @include "clock"
--- @include "openMeta"
--- @include "publish"

local stored = redis.call('HGET', revocationsKey, revocationId)
if not stored then return UNCHANGED end
local revocation = cjson.decode(stored)
if revocation.expiresAtMs <= nowMs or not revocation.pending[replica] then return UNCHANGED end
revocation.pending[replica] = nil
if next(revocation.pending) then
  redis.call('HSET', revocationsKey, revocationId, cjson.encode(revocation))
else
  redis.call('HDEL', revocationsKey, revocationId)
  redis.call('ZREM', revocationExpiryKey, revocationId)
end
publish(metaKey, changesKey, freshClusterId, changesKept, { { type = 'revocation', revocation = revocation } })
return DONE
