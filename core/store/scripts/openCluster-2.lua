-- Says what these data are and where their feed ends, and gives them an id when they have none.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- ARGV[1] a fresh cluster id, taken when there is none
-- Returns { cluster id, birth in ms, number of the last change, mark of the last change, now in ms }, all texts

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local freshClusterId = ARGV[1]

--- @include "clock"
--- @include "openMeta"

openMeta(metaKey, changesKey, freshClusterId)
local meta = redis.call('HMGET', metaKey, 'clusterId', 'bornAtMs', 'lastNumber', 'lastMark')
return { meta[1], meta[2], meta[3], meta[4], string.format('%.0f', nowMs) }
