-- Says that the lease was given back, so that followers need not wait for its end. The lock itself was
-- released before; whoever was granted the lease since then is left alone.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] lease (STRING)
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] owner
-- Returns DONE or UNCHANGED

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local leaseKey = KEYS[3]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local owner = ARGV[3]
local DONE = 1
local UNCHANGED = 0

--- @include "clock"
--- @include "openMeta"
--- @include "publish"

local stored = redis.call('GET', leaseKey)
if not stored then return UNCHANGED end
local lease = cjson.decode(stored)
if lease.epoch.owner ~= owner or lease.replica == '' then return UNCHANGED end
lease.replica = ''
lease.gateUrl = ''
lease.lock = nil
redis.call('SET', leaseKey, cjson.encode(lease))
publish(metaKey, changesKey, freshClusterId, changesKept, { { type = 'lease', lease = lease } })
return DONE
