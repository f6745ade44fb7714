-- Leaves what one proxy sees of the replicas, and answers everybody's sights and the members.
--
-- KEYS[1] sights (HASH)
-- KEYS[2] members (HASH)
-- ARGV[1] proxy
-- ARGV[2] reachable, a JSON object of replica to boolean
-- ARGV[3] how long the sight counts, in ms
-- Returns { sights, members }, each a list of JSON texts, in the order of their names

local sightsKey = KEYS[1]
local membersKey = KEYS[2]
local proxy = ARGV[1]
local reachable = cjson.decode(ARGV[2])
local ttlMs = tonumber(ARGV[3])

--- @include "clock"
--- @include "liveValues"

local sight = { proxy = proxy, reachable = reachable, atMs = nowMs, expiresAtMs = nowMs + ttlMs }
redis.call('HSET', sightsKey, proxy, cjson.encode(sight))
return { liveValues(sightsKey), liveValues(membersKey) }
