-- Adds one replica's token to an identity of the given generation, or makes the identity (generation 0).
-- Another token of that replica becomes a former hash. An equal one changes nothing.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] identities (HASH)
-- KEYS[4] revokedHashes (ZSET)
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] identity key
-- ARGV[4] facts, a JSON object of texts; they count only where there are no tokens yet
-- ARGV[5] generation (0: there should be no such identity)
-- ARGV[6] replica
-- ARGV[7] hash
-- ARGV[8] sealed
-- ARGV[9] former hashes kept
-- Returns { RECORDED, identity } or { STALE, generation as text }

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local identitiesKey = KEYS[3]
local revokedKey = KEYS[4]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local identityKey = ARGV[3]
local facts = ARGV[4]
local expectedGeneration = tonumber(ARGV[5])
local replica = ARGV[6]
local hash = ARGV[7]
local sealed = ARGV[8]
local formerHashesKept = tonumber(ARGV[9])
local RECORDED = 1
local STALE = -1

--- @include "clock"
--- @include "openMeta"
--- @include "publish"
--- @include "identity"
--- @include "formerHashes"
--- @include "isRevoked"

local stored = redis.call('HGET', identitiesKey, identityKey)
local identity = stored and cjson.decode(stored)
local generation = identity and identity.generation or 0
local token = identity and identity.tokens[replica]
if token and token.hash == hash then return { RECORDED, stored } end
if expectedGeneration ~= generation or isRevoked(revokedKey, hash) then
  return { STALE, string.format('%.0f', generation) }
end

if not identity or hasEnded(identity) then
  local startedAtMs = identity and identity.startedAtMs or nowMs
  identity = cjson.decode(facts)
  identity.key = identityKey
  identity.generation = math.max(generation, 1)
  identity.startedAtMs = startedAtMs
  identity.origin = replica
  identity.tokens = {}
  identity.formerHashes = ''
end
takeToken(identity, replica, formerHashesKept)
withoutFormerHash(identity, hash)
identity.tokens[replica] = { hash = hash, sealed = sealed }

local text = cjson.encode(identity)
redis.call('HSET', identitiesKey, identityKey, text)
publish(metaKey, changesKey, freshClusterId, changesKept, { { type = 'identity', identity = identity } })
return { RECORDED, text }
