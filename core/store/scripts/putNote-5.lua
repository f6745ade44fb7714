-- Writes a note. The same value for the same replica again is told to nobody unless its end moves far.
--
-- KEYS[1] meta (HASH)
-- KEYS[2] changes (STREAM)
-- KEYS[3] notes (HASH), of this kind
-- KEYS[4] noteReplicas (HASH), of this kind
-- KEYS[5] noteExpiry (ZSET), of this kind
-- ARGV[1] a fresh cluster id, taken when there is none
-- ARGV[2] changes kept in the feed
-- ARGV[3] kind
-- ARGV[4] id
-- ARGV[5] replica, or nothing
-- ARGV[6] value
-- ARGV[7] how long the note holds, in ms (0: until it is dropped)
-- ARGV[8] how many notes of one kind are kept
-- ARGV[9] 1: only where there is no such note
-- Returns DONE, UNCHANGED, or FULL (there are as many as are kept)

local metaKey = KEYS[1]
local changesKey = KEYS[2]
local notesKey = KEYS[3]
local replicasKey = KEYS[4]
local expiryKey = KEYS[5]
local freshClusterId = ARGV[1]
local changesKept = ARGV[2]
local kind = ARGV[3]
local id = ARGV[4]
local replica = ARGV[5]
local value = ARGV[6]
local ttlMs = tonumber(ARGV[7])
local notesLimit = tonumber(ARGV[8])
local onlyIfAbsent = ARGV[9] == '1'
local DONE = 1
local UNCHANGED = 0
local FULL = -2

--- @include "clock"
--- @include "openMeta"
--- @include "publish"
--- @include "purgeNotes"
--- @include "changesExpiry"

purgeNotes(notesKey, replicasKey, expiryKey)
local expiresAtMs = ttlMs > 0 and nowMs + ttlMs or 0
local stored = redis.call('HGET', notesKey, id)
local known = stored and cjson.decode(stored)
if not known and redis.call('HLEN', notesKey) >= notesLimit then return FULL end
if known and (known.expiresAtMs == 0 or known.expiresAtMs > nowMs) then
  if onlyIfAbsent then return UNCHANGED end
  local same = known.value == value and known.replica == replica
  if same and not changesExpiry(known.expiresAtMs, expiresAtMs, ttlMs) then return UNCHANGED end
end
local note = { kind = kind, id = id, replica = replica, value = value, expiresAtMs = expiresAtMs }
redis.call('HSET', notesKey, id, cjson.encode(note))
redis.call('HSET', replicasKey, id, replica)
if expiresAtMs > 0 then
  redis.call('ZADD', expiryKey, expiresAtMs, id)
else
  redis.call('ZREM', expiryKey, id)
end
publish(metaKey, changesKey, freshClusterId, changesKept, { { type = 'note', note = note } })
return DONE
