-- Appends entries to the journal, all with consecutive numbers. Keeps about so many of them, and no more bytes
-- than told: the bytes are summed by blocks of a sixty-fourth of the limit, and whole blocks are taken away, so
-- that no append reads what it does away with.
--
-- KEYS[1] journalHead (HASH)
-- KEYS[2] journal (STREAM)
-- ARGV[1] a fresh generation, taken when there is none or when entries were lost
-- ARGV[2] generation of the newest entry that the caller knows (empty: of none)
-- ARGV[3] its number
-- ARGV[4] its mark, or empty
-- ARGV[5] the highest number that the caller's process met in this journal, of whatever generation
-- ARGV[6] how far above it a new generation goes on
-- ARGV[7] how many entries are kept
-- ARGV[8] how many bytes are kept
-- ARGV[9] what an entry costs besides its value, in bytes
-- ARGV[10] the first value, and the others after it
-- Returns { generation, number of the last entry, its mark (empty: there is no value) }, all texts

local headKey = KEYS[1]
local journalKey = KEYS[2]
local freshGeneration = ARGV[1]
local seenGeneration = ARGV[2]
local seenNumber = tonumber(ARGV[3])
local seenMark = ARGV[4]
local highest = tonumber(ARGV[5])
local stride = tonumber(ARGV[6])
local kept = ARGV[7]
local keptBytes = tonumber(ARGV[8])
local overheadBytes = tonumber(ARGV[9])
local firstValue = 10

--- @include "clock"
--- @include "openJournal"

local head = openJournal(headKey, journalKey, freshGeneration, seenGeneration, seenNumber, seenMark, highest, stride)
if not ARGV[10] then return { head.generation, journalText(head.last), '' } end

local function append(value)
  return redis.pcall('XADD', journalKey, 'MAXLEN', '~', kept, journalText(head.last + 1) .. '-0',
    'mark', nowMark, 'previous', journalText(head.lastEntry), 'value', value)
end

local function failed(answer)
  return type(answer) == 'table' and answer.err
end

local addedBytes = 0
for index = firstValue, #ARGV do
  local answer = append(ARGV[index])
  if failed(answer) and string.find(answer.err, 'equal or smaller', 1, true) then
    -- Somebody else wrote into the stream, beyond our numbers: what lies there is in no order any more.
    redis.call('DEL', journalKey)
    head.generation = freshGeneration
    head.last = math.max(head.last, highest, seenNumber) + stride
    head.lastEntry = head.last
    answer = append(ARGV[index])
  end
  if failed(answer) then return answer end
  head.last = head.last + 1
  head.lastEntry = head.last
  addedBytes = addedBytes + #ARGV[index] + overheadBytes
end

local blockBytes = (tonumber(redis.call('HGET', headKey, 'blockBytes') or '') or 0) + addedBytes
if blockBytes >= keptBytes / 64 then
  -- The blocks that are full, oldest first: `<number of the last entry>:<bytes>`, divided by spaces.
  local blocks = {}
  local sumBytes = blockBytes
  for number, bytes in string.gmatch(redis.call('HGET', headKey, 'blocks') or '', '(%d+):(%d+)') do
    blocks[#blocks + 1] = { number = number, bytes = tonumber(bytes) }
    sumBytes = sumBytes + tonumber(bytes)
  end
  local trimmed
  -- The block that begins now needs its room, too.
  while blocks[1] and sumBytes > keptBytes - keptBytes / 64 do
    trimmed = table.remove(blocks, 1)
    sumBytes = sumBytes - trimmed.bytes
  end
  if trimmed then
    redis.call('XTRIM', journalKey, 'MINID', journalText(tonumber(trimmed.number) + 1) .. '-0')
  end
  blocks[#blocks + 1] = { number = journalText(head.last), bytes = blockBytes }
  local texts = {}
  for index, block in ipairs(blocks) do
    texts[index] = block.number .. ':' .. journalText(block.bytes)
  end
  redis.call('HSET', headKey, 'blocks', table.concat(texts, ' '))
  blockBytes = 0
end
redis.call('HSET', headKey, 'generation', head.generation, 'last', journalText(head.last),
  'lastEntry', journalText(head.lastEntry), 'blockBytes', journalText(blockBytes))
return { head.generation, journalText(head.last), nowMark }
