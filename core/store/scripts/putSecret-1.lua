-- Keeps a sealed secret until every replica has settled it, or its time is up.
--
-- KEYS[1] secret (HASH), the one of this id
-- ARGV[1] sealed secret
-- ARGV[2] how long it is kept, in ms
-- ARGV[3...] replicas it is for
-- Returns DONE or UNCHANGED

local secretKey = KEYS[1]
local sealed = ARGV[1]
local ttlMs = ARGV[2]
local DONE = 1
local UNCHANGED = 0

if redis.call('EXISTS', secretKey) == 1 then return UNCHANGED end
redis.call('HSET', secretKey, 'sealed', sealed)
for index = 3, #ARGV do
  redis.call('HSET', secretKey, 'for:' .. ARGV[index], '1')
end
redis.call('PEXPIRE', secretKey, ttlMs)
return DONE
