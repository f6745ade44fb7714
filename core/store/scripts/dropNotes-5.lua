-- Takes notes of one kind away: one of them, or all that tell of a replica. Followers are told each with an
-- empty value.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] notes (HASH), of this kind
-- KEYS[4] noteReplicas (HASH), of this kind
-- KEYS[5] noteExpiry (ZSET), of this kind
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] kind
-- ARGV[4] which: `one`, `ofReplica` (those that tell of it), `oneOfReplica` (one, if it tells of it), `all`
-- ARGV[5] id
-- ARGV[6] replica
-- Returns DONE or UNCHANGED

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local notesKey = KEYS[3]
local replicasKey = KEYS[4]
local expiryKey = KEYS[5]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local kind = ARGV[3]
local which = ARGV[4]
local wantedId = ARGV[5]
local wantedReplica = ARGV[6]
local DONE = 1
local UNCHANGED = 0

--- @include "clock"
--- @include "openMeta"
--- @include "publish"

local entries
if which == 'one' or which == 'oneOfReplica' then
  entries = { wantedId, redis.call('HGET', replicasKey, wantedId) }
else
  entries = redis.call('HGETALL', replicasKey)
end
local changes = {}
for index = 1, #entries, 2 do
  local id = entries[index]
  local replica = entries[index + 1]
  local isMeant = replica and (which == 'one' or which == 'all' or replica == wantedReplica)
  if isMeant then
    redis.call('HDEL', notesKey, id)
    redis.call('HDEL', replicasKey, id)
    redis.call('ZREM', expiryKey, id)
    local note = { kind = kind, id = id, replica = replica, value = '', expiresAtMs = 0 }
    changes[#changes + 1] = { type = 'note', note = note }
  end
end
if #changes == 0 then return UNCHANGED end
publish(metaKey, changesKey, freshClusterId, changesKept, changes)
return DONE
