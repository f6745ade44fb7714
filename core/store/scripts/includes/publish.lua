-- Appends one transition to the feed, as one entry: its changes come to a follower together or not at all.
-- Numbers have no gaps, so a follower sees at once when entries between were trimmed.
local function publish(metaKey, changesKey, freshClusterId, changesKept, changes)
  openMeta(metaKey, changesKey, freshClusterId)
  local number = redis.call('HINCRBY', metaKey, 'lastNumber', 1)
  local bornAtMs = redis.call('HGET', metaKey, 'bornAtMs')
  redis.call('HSET', metaKey, 'lastMark', nowMark)
  local id = bornAtMs .. '-' .. string.format('%.0f', number)
  redis.call('XADD', changesKey, 'MAXLEN', '~', changesKept, id, 'mark', nowMark, 'changes', cjson.encode(changes))
end
