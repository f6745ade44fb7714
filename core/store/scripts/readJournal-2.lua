-- Reads what follows a cursor in the journal, or says that the cursor is no place in it any more.
--
-- KEYS[1] journalHead (HASH)
-- KEYS[2] journal (STREAM)
-- ARGV[1] a fresh generation, taken when there is none or when the cursor tells of lost entries
-- ARGV[2] the cursor's generation (empty: only the ends are asked for)
-- ARGV[3] the cursor's number
-- ARGV[4] the cursor's mark, or empty
-- ARGV[5] the highest number that the caller's process met in this journal, of whatever generation
-- ARGV[6] how far above it a new generation goes on
-- ARGV[7] how many entries at most
-- ARGV[8] about how many bytes of values at most
-- Returns { HELD or LOST, generation, first number kept, last number, entries as XRANGE answers them }, numbers as texts

local headKey = KEYS[1]
local journalKey = KEYS[2]
local freshGeneration = ARGV[1]
local cursorGeneration = ARGV[2]
local cursorNumber = tonumber(ARGV[3])
local cursorMark = ARGV[4]
local highest = tonumber(ARGV[5])
local stride = tonumber(ARGV[6])
local count = tonumber(ARGV[7])
local bytesLimit = tonumber(ARGV[8])
-- So few at once, because each may be as large as half a million characters.
local chunk = 16
local HELD = 1
local LOST = -1

--- @include "openJournal"

local head = openJournal(headKey, journalKey, freshGeneration, cursorGeneration, cursorNumber, cursorMark, highest, stride)
-- An entry says the number of the one before it: who stands between the two misses nothing.
local first = head.last + 1
local reachable = head.last
local oldest = redis.call('XRANGE', journalKey, '-', '+', 'COUNT', 1)[1]
if oldest then
  first = tonumber(string.match(oldest[1], '^%d+'))
  reachable = tonumber(oldest[2][4] or '') or 0
end
local ends = { journalText(first), journalText(head.last) }
if cursorGeneration ~= head.generation or cursorNumber < reachable then
  return { LOST, head.generation, ends[1], ends[2], {} }
end

local entries = {}
local bytes = 0
local from = journalText(cursorNumber) .. '-18446744073709551615'
while #entries < count and bytes < bytesLimit do
  local wanted = math.min(chunk, count - #entries)
  local found = redis.call('XRANGE', journalKey, '(' .. from, '+', 'COUNT', wanted)
  for _, entry in ipairs(found) do
    entries[#entries + 1] = entry
    bytes = bytes + #(entry[2][6] or '')
    from = entry[1]
  end
  if #found < wanted then break end
end
return { HELD, head.generation, ends[1], ends[2], entries }
