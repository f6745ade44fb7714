-- Forgets one replica's token when it is still the one that is meant; its hash becomes a former hash.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] identities (HASH)
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] identity key
-- ARGV[4] generation
-- ARGV[5] replica
-- ARGV[6] hash
-- ARGV[7] former hashes kept
-- Returns DONE or UNCHANGED

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local identitiesKey = KEYS[3]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local identityKey = ARGV[3]
local generation = tonumber(ARGV[4])
local replica = ARGV[5]
local hash = ARGV[6]
local formerHashesKept = tonumber(ARGV[7])
local DONE = 1
local UNCHANGED = 0

--- @include "clock"
--- @include "openMeta"
--- @include "publish"
--- @include "formerHashes"

local stored = redis.call('HGET', identitiesKey, identityKey)
if not stored then return UNCHANGED end
local identity = cjson.decode(stored)
local token = identity.tokens[replica]
if identity.generation ~= generation or not token or token.hash ~= hash then return UNCHANGED end
takeToken(identity, replica, formerHashesKept)
redis.call('HSET', identitiesKey, identityKey, cjson.encode(identity))
publish(metaKey, changesKey, freshClusterId, changesKept, { { type = 'identity', identity = identity } })
return DONE
