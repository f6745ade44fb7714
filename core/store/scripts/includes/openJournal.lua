-- Numbers of the journal as texts: Lua would write large ones as 1e+14.
local function journalText(number)
  return string.format('%.0f', number)
end

-- Whether the caller knows of an entry that these data lack, or that has another in its place.
local function isJournalLost(journalKey, head, seenGeneration, seenNumber, seenMark, highest)
  if highest > head.last then return true end
  if seenGeneration ~= head.generation then return false end
  if seenNumber > head.last then return true end
  if seenMark == '' then return false end
  local id = journalText(seenNumber) .. '-0'
  local entry = redis.call('XRANGE', journalKey, id, id)[1]
  if not entry then return false end
  return entry[2][2] ~= seenMark
end

-- Where the journal stands: { generation, last, lastEntry }. Begins it where there is none, and begins a new
-- generation, above all known numbers, where `seen` or `highest` tell of an entry that was lost. What is left stays.
local function openJournal(headKey, journalKey, freshGeneration, seenGeneration, seenNumber, seenMark, highest, stride)
  local fields = redis.call('HMGET', headKey, 'generation', 'last', 'lastEntry')
  local head = { generation = fields[1], last = tonumber(fields[2]), lastEntry = tonumber(fields[3]) }
  local known = math.max(highest, seenNumber)
  -- What is no number that a journal can have was written by somebody else.
  local isSound = head.generation and head.last and head.lastEntry and head.last >= 0 and head.last < 1e13
  if not isSound then
    redis.call('DEL', headKey, journalKey)
    head.last = 0
    if known > 0 then head.last = known + stride end
    head.lastEntry = head.last
  elseif isJournalLost(journalKey, head, seenGeneration, seenNumber, seenMark, highest) then
    head.last = math.max(head.last, known) + stride
  else
    return head
  end
  head.generation = freshGeneration
  redis.call('HSET', headKey, 'generation', head.generation, 'last', journalText(head.last), 'lastEntry',
    journalText(head.lastEntry))
  return head
end
