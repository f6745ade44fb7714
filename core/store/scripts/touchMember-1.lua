-- Announces a replica for a while, and tells its sidecar what it wants to know each time anyway: the time,
-- and the members.
--
-- KEYS[1] members (HASH)
-- ARGV[1] replica
-- ARGV[2] member, a JSON object of texts
-- ARGV[3] how long the member counts, in ms
-- Returns { now in ms as a text, members as a list of JSON texts in the order of their names }

local membersKey = KEYS[1]
local replica = ARGV[1]
local member = cjson.decode(ARGV[2])
local ttlMs = tonumber(ARGV[3])

--- @include "clock"
--- @include "liveValues"

member.atMs = nowMs
member.expiresAtMs = nowMs + ttlMs
redis.call('HSET', membersKey, replica, cjson.encode(member))
return { string.format('%.0f', nowMs), liveValues(membersKey) }
