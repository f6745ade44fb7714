-- A login was seen: a new generation begins and the tokens of the old one are revoked.
-- A hash that the current generation already has changes nothing, so the call may be repeated.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] identities (HASH)
-- KEYS[4] revokedHashes (ZSET)
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] identity key
-- ARGV[4] facts, a JSON object of texts
-- ARGV[5] origin, the replica's name
-- ARGV[6] hash
-- ARGV[7] sealed
-- ARGV[8] expected generation
-- ARGV[9] how long revoked hashes are kept, in ms
-- Returns { RECORDED, identity }, { STALE, generation as text } or { REVOKED, '' }

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local identitiesKey = KEYS[3]
local revokedKey = KEYS[4]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local identityKey = ARGV[3]
local facts = ARGV[4]
local origin = ARGV[5]
local hash = ARGV[6]
local sealed = ARGV[7]
local expectedGeneration = tonumber(ARGV[8])
local revokedKeepMs = tonumber(ARGV[9])
local RECORDED = 1
local STALE = -1
local REVOKED = -2

--- @include "clock"
--- @include "openMeta"
--- @include "publish"
--- @include "identity"
--- @include "revokeHashes"
--- @include "isRevoked"

local stored = redis.call('HGET', identitiesKey, identityKey)
local known = stored and cjson.decode(stored)
local generation = 0
if known then
  generation = known.generation
  for _, knownHash in ipairs(hashesOf(known)) do
    if knownHash == hash then return { RECORDED, stored } end
  end
end
if isRevoked(revokedKey, hash) then return { REVOKED, '' } end
if expectedGeneration ~= generation + 1 then return { STALE, string.format('%.0f', generation) } end

local identity = cjson.decode(facts)
identity.key = identityKey
identity.generation = expectedGeneration
identity.startedAtMs = nowMs
identity.origin = origin
identity.tokens = { [origin] = { hash = hash, sealed = sealed } }
identity.formerHashes = ''

local text = cjson.encode(identity)
redis.call('HSET', identitiesKey, identityKey, text)
local changes = { { type = 'identity', identity = identity } }
if known then revokeHashes(revokedKey, known, revokedKeepMs, changes) end
publish(metaKey, changesKey, freshClusterId, changesKept, changes)
return { RECORDED, text }
