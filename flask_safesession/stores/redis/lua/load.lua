-- KEYS: record. ARGV: slide (1; 0 if not; - to write nothing at all) and limits, rows of '|tag' (or '+tag',
-- for extended sessions), idle, lifetime and touch by 12 digits each, the default's first. Returns now (11 digits, hexadecimal) and the
-- record in one string; otherwise an array with a status.
--
-- The first part serves nearly every request. It comes before the common functions, whose definition
-- takes longer than it does. The part after them does the rest.
local raw = redis.pcall('GET', KEYS[1])
local generation = redis.pcall('GET', string.sub(KEYS[1], 1, -22) .. ':generation')
local way = string.sub(ARGV[1], 1, 1)
local unsure = type(generation) == 'table'  -- while the slot moves, the other node may have it
if unsure and way ~= '-' then return generation end
if not unsure and type(raw) == 'string' and string.sub(raw, 1, 3) == 'SS1'
  and (string.sub(raw, 80, 80) == '-' or (string.sub(raw, 80, 80) == '+' and #raw >= 96))
  and string.find(string.sub(raw, 25, 75), '^%x+$')
then
  local created = tonumber(string.sub(raw, 25, 35), 16)
  local last = tonumber(string.sub(raw, 36, 46), 16)
  local absolute = tonumber(string.sub(raw, 47, 57), 16)
  local idle = tonumber(string.sub(raw, 58, 67), 16)
  local tag = string.sub(raw, 76, 79)
  local row = string.find(ARGV[1], '|' .. tag, 1, true) or 2
  if idle >= 2 ^ 39 then  -- EXTENDED of _common.lua
    idle, row = idle - 2 ^ 39, string.find(ARGV[1], '+' .. tag, 1, true) or row
  end
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  if idle <= tonumber(string.sub(ARGV[1], row + 5, row + 16))
    and absolute <= created + tonumber(string.sub(ARGV[1], row + 17, row + 28))
    and now < absolute and now < last + idle
    and string.sub(raw, 68, 72) == string.sub(generation or '00000', 1, 5)
    and (way ~= '1' or last > created
      and now - last < tonumber(string.sub(ARGV[1], row + 29, row + 40)))
  then
    return string.format('%011x', now) .. raw
  end
end
