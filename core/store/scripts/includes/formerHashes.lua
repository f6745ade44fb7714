-- Former hashes without one of them.
local function withoutFormerHash(identity, hash)
  local kept = {}
  for former in string.gmatch(identity.formerHashes, '%S+') do
    if former ~= hash then kept[#kept + 1] = former end
  end
  identity.formerHashes = table.concat(kept, ' ')
end

-- Takes the replica's token away; its hash becomes a former hash (the latest `formerHashesKept` are kept),
-- unless another replica knows the same token.
local function takeToken(identity, replica, formerHashesKept)
  local dropped = identity.tokens[replica]
  if not dropped then return end
  identity.tokens[replica] = nil
  for _, token in pairs(identity.tokens) do
    if token.hash == dropped.hash then return end
  end
  withoutFormerHash(identity, dropped.hash)
  local kept = {}
  for former in string.gmatch(identity.formerHashes, '%S+') do kept[#kept + 1] = former end
  kept[#kept + 1] = dropped.hash
  while #kept > formerHashesKept do table.remove(kept, 1) end
  identity.formerHashes = table.concat(kept, ' ')
end
