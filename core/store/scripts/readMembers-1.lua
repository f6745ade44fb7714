-- The members not yet expired. Those that are get removed on the way.
--
-- KEYS[1] members (HASH)
-- Returns a list of JSON texts, in the order of their names

local membersKey = KEYS[1]

--- @include "clock"
--- @include "liveValues"

return liveValues(membersKey)
