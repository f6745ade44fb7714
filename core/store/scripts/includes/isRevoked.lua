-- True while a token's hash is among the revoked ones (a sorted set by the time at which each is
-- forgotten); expects the local `nowMs`.
local function isRevoked(revokedKey, hash)
  local expiresAtMs = redis.call('ZSCORE', revokedKey, hash)
  return expiresAtMs and tonumber(expiresAtMs) > nowMs
end
