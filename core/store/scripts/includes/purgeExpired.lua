-- Forgets values whose time is over, a hundred at most, so that no call takes long.
-- `expiryKey` is a ZSET of the value's field, by when it ends.
local function purgeExpired(valuesKey, expiryKey)
  local expired = redis.call('ZRANGEBYSCORE', expiryKey, '-inf', nowMs, 'LIMIT', 0, 100)
  if #expired == 0 then return end
  redis.call('HDEL', valuesKey, unpack(expired))
  redis.call('ZREM', expiryKey, unpack(expired))
end
