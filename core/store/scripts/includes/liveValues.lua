-- The values of a HASH that have not yet expired, in the order of their fields. The others are removed, and
-- so is what is no value of this program.
local function liveValues(key)
  local entries = redis.call('HGETALL', key)
  local fields = {}
  local values = {}
  for index = 1, #entries, 2 do
    local field = entries[index]
    local value = entries[index + 1]
    local isJson, decoded = pcall(cjson.decode, value)
    local expiresAtMs = isJson and type(decoded) == 'table' and decoded.expiresAtMs
    if type(expiresAtMs) == 'number' and expiresAtMs > nowMs then
      fields[#fields + 1] = field
      values[field] = value
    else
      redis.call('HDEL', key, field)
    end
  end
  table.sort(fields)
  local live = {}
  for index, field in ipairs(fields) do live[index] = values[field] end
  return live
end
