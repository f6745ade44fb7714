-- True when a time of end should be written and told: it moves by more than a quarter of the time that the
-- value holds, or it appears or vanishes (0: no end). Less is not worth a change for every follower; and
-- who writes again before three quarters have gone by never lets the value end.
local function changesExpiry(knownExpiresAtMs, expiresAtMs, ttlMs)
  if (knownExpiresAtMs == 0) ~= (expiresAtMs == 0) then return true end
  return math.abs(expiresAtMs - knownExpiresAtMs) > ttlMs / 4
end
