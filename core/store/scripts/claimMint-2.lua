-- The right to mint one token, for a while. Refused while anybody holds it, and for an ended generation.
--
-- KEYS[1] identities (HASH)
-- KEYS[2] mintClaim (STRING), the one of this identity, generation and replica
-- ARGV[1] identity key
-- ARGV[2] generation
-- ARGV[3] owner
-- ARGV[4] how long the claim holds, in ms
-- Returns GRANTED or REFUSED

local identitiesKey = KEYS[1]
local mintClaimKey = KEYS[2]
local identityKey = ARGV[1]
local generation = tonumber(ARGV[2])
local owner = ARGV[3]
local ttlMs = ARGV[4]
local GRANTED = 1
local REFUSED = 0

--- @include "identity"

local stored = redis.call('HGET', identitiesKey, identityKey)
if not stored then return REFUSED end
local identity = cjson.decode(stored)
if identity.generation ~= generation or hasEnded(identity) then return REFUSED end
if redis.call('SET', mintClaimKey, owner, 'NX', 'PX', ttlMs) then return GRANTED end
return REFUSED
