-- One replica has a secret; after the last one it is gone.
--
-- KEYS[1] secret (HASH), the one of this id
-- ARGV[1] replica
-- Returns DONE or UNCHANGED

local secretKey = KEYS[1]
local replica = ARGV[1]
local DONE = 1
local UNCHANGED = 0

if redis.call('HDEL', secretKey, 'for:' .. replica) == 0 then return UNCHANGED end
-- What is left is the secret itself: nobody waits for it any more.
if redis.call('HLEN', secretKey) <= 1 then redis.call('DEL', secretKey) end
return DONE
