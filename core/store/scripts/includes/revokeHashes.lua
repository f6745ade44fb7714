-- Revokes all hashes of an identity's generation and adds the change to those to be published.
-- Hashes whose time is over are forgotten on the way.
local function revokeHashes(revokedKey, identity, revokedKeepMs, changes)
  redis.call('ZREMRANGEBYSCORE', revokedKey, '-inf', nowMs)
  local hashes = hashesOf(identity)
  if #hashes == 0 then return end
  for _, hash in ipairs(hashes) do
    redis.call('ZADD', revokedKey, nowMs + revokedKeepMs, hash)
  end
  changes[#changes + 1] = { type = 'revoked', identityKey = identity.key, hashes = hashes }
end
