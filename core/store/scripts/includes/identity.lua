-- Questions about an identity as it is kept: JSON without arrays (cjson cannot tell an empty array from an
-- empty object), so its former hashes are one text, divided by spaces.

-- Every hash that the identity's generation is known by, each once.
local function hashesOf(identity)
  local hashes = {}
  local seen = {}
  local function add(hash)
    if not seen[hash] then
      seen[hash] = true
      hashes[#hashes + 1] = hash
    end
  end
  for _, token in pairs(identity.tokens) do add(token.hash) end
  for hash in string.gmatch(identity.formerHashes, '%S+') do add(hash) end
  return hashes
end

-- True when no token of the generation can be shown any more.
local function hasEnded(identity)
  return next(identity.tokens) == nil and identity.formerHashes == ''
end
