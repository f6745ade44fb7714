-- Forgets notes of one kind whose time is over, a hundred at most, so that no call takes long.
-- `expiryKey` is a ZSET of those ids that end, by when they do.
local function purgeNotes(notesKey, replicasKey, expiryKey)
  local expired = redis.call('ZRANGEBYSCORE', expiryKey, '-inf', nowMs, 'LIMIT', 0, 100)
  if #expired == 0 then return end
  redis.call('HDEL', notesKey, unpack(expired))
  redis.call('HDEL', replicasKey, unpack(expired))
  redis.call('ZREM', expiryKey, unpack(expired))
end
