-- Gives a mint claim back when it is still its owner's.
--
-- KEYS[1] mintClaim (STRING)
-- ARGV[1] owner
-- Returns DONE or UNCHANGED

local mintClaimKey = KEYS[1]
local owner = ARGV[1]
local DONE = 1
local UNCHANGED = 0

if redis.call('GET', mintClaimKey) ~= owner then return UNCHANGED end
redis.call('DEL', mintClaimKey)
return DONE
