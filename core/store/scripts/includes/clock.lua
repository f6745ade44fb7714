-- The store's clock: Redis's own, so that all processes of a cluster agree on it.
-- `nowMs` is in ms since the epoch; `nowMark` has microseconds, so that two transitions that were given
-- the same number by two servers (one lost its last writes in a failover) can be told apart.
local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local nowMark = time[1] .. string.format('%06d', tonumber(time[2]))
