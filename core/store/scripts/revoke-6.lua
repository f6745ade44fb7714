-- Ends an identity's generation: it has no tokens any more, their hashes are revoked, and a revocation
-- tells which replicas must still log them out.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] identities (HASH)
-- KEYS[4] revokedHashes (ZSET)
-- KEYS[5] revocations (HASH)
-- KEYS[6] revocationExpiry (ZSET)
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] identity key
-- ARGV[4] a fresh id for the revocation
-- ARGV[5] replicas, a JSON object of name to true
-- ARGV[6] how long revoked hashes and the revocation are kept, in ms
-- Returns { DONE, identity as it was } or { UNCHANGED, '' }

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local identitiesKey = KEYS[3]
local revokedKey = KEYS[4]
local revocationsKey = KEYS[5]
local revocationExpiryKey = KEYS[6]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local identityKey = ARGV[3]
local revocationId = ARGV[4]
local pending = cjson.decode(ARGV[5])
local revokedKeepMs = tonumber(ARGV[6])
local DONE = 1
local UNCHANGED = 0

--- @include "clock"
--- @include "openMeta"
--- @include "publish"
--- @include "identity"
--- @include "revokeHashes"
--- @include "purgeExpired"

local stored = redis.call('HGET', identitiesKey, identityKey)
if not stored then return { UNCHANGED, '' } end
local ended = cjson.decode(stored)
if hasEnded(ended) then return { UNCHANGED, '' } end

local identity = cjson.decode(stored)
identity.generation = ended.generation + 1
identity.startedAtMs = nowMs
identity.tokens = {}
identity.formerHashes = ''
redis.call('HSET', identitiesKey, identityKey, cjson.encode(identity))
local changes = { { type = 'identity', identity = identity } }
revokeHashes(revokedKey, ended, revokedKeepMs, changes)

purgeExpired(revocationsKey, revocationExpiryKey)
if next(pending) then
  local expiresAtMs = nowMs + revokedKeepMs
  local revocation = {
    id = revocationId,
    identityKey = identityKey,
    generation = ended.generation,
    userId = ended.userId,
    deviceId = ended.deviceId,
    tokens = ended.tokens,
    pending = pending,
    expiresAtMs = expiresAtMs,
  }
  redis.call('HSET', revocationsKey, revocationId, cjson.encode(revocation))
  redis.call('ZADD', revocationExpiryKey, expiresAtMs, revocationId)
  changes[#changes + 1] = { type = 'revocation', revocation = revocation }
end
publish(metaKey, changesKey, freshClusterId, changesKept, changes)
return { DONE, stored }
