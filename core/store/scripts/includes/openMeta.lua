-- Makes the cluster's id when there are no data yet (a first start, or somebody emptied this Redis).
-- The birth time is the first half of every entry's id in the feed: whoever follows older data is woken
-- by the first entry of the new ones and sees that they are others.
local function openMeta(metaKey, changesKey, freshClusterId)
  if redis.call('HSETNX', metaKey, 'clusterId', freshClusterId) == 1 then
    redis.call('DEL', changesKey)
    redis.call('HSET', metaKey, 'bornAtMs', string.format('%.0f', nowMs), 'lastNumber', 0, 'lastMark', 0)
  end
end
