-- Says whether a follower's position is still part of these data. It is not when the data were replaced,
-- when a failover lost the entry (it is missing, or another one has its number), or when it was trimmed.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- ARGV[1] the position's cluster id
-- ARGV[2] the position's birth in ms
-- ARGV[3] the position's number (0: before the first change)
-- ARGV[4] the position's mark
-- Returns HELD or LOST

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local clusterId = ARGV[1]
local bornAtMs = ARGV[2]
local number = ARGV[3]
local mark = ARGV[4]
local HELD = 1
local LOST = -1

local meta = redis.call('HMGET', metaKey, 'clusterId', 'bornAtMs')
if meta[1] ~= clusterId or meta[2] ~= bornAtMs then return LOST end
-- Before the first change there is no entry to compare; a gap shows when the first one is read.
if number == '0' then return HELD end
local id = bornAtMs .. '-' .. number
local entry = redis.call('XRANGE', changesKey, id, id)[1]
if not entry then return LOST end
local fields = entry[2]
if fields[1] ~= 'mark' or fields[2] ~= mark then return LOST end
return HELD
