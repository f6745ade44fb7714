-- A sealed secret, as long as it is kept.
--
-- KEYS[1] secret (HASH), the one of this id
-- Returns the sealed secret, or an empty text

local secretKey = KEYS[1]

return redis.call('HGET', secretKey, 'sealed') or ''
