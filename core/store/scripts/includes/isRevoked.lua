local function isRevoked(revokedKey, hash)
  local expiresAtMs = redis.call('ZSCORE', revokedKey, hash)
  return expiresAtMs and tonumber(expiresAtMs) > nowMs
end
