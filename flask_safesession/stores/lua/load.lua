-- KEYS: record. ARGV: slide (1 or 0) and limits, rows of '|tag', idle, lifetime and touch by 12
-- digits each, the default's first. Answers the stored bytes as they are where nothing is to be
-- written; otherwise an array: LIVE, now, head, stored bytes, or another status.
--
-- The first part is the way of nearly every request, so it stands before the common functions, whose
-- making costs more than this does. Whatever is out of the ordinary is left to the part after them.
local raw = redis.pcall('GET', KEYS[1])
if type(raw) == 'string' and #raw >= 104 and string.sub(raw, 1, 3) == 'SS1'
  and string.find(string.sub(raw, 28, 78), '^%d+$')
then
  local row = string.find(ARGV[1], '|' .. string.sub(raw, 79, 84), 1, true) or 2
  local created, last = tonumber(string.sub(raw, 28, 40)), tonumber(string.sub(raw, 41, 53))
  local absolute, idle = tonumber(string.sub(raw, 54, 66)), tonumber(string.sub(raw, 67, 78))
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  if idle <= tonumber(string.sub(ARGV[1], row + 7, row + 18))
    and absolute <= created + tonumber(string.sub(ARGV[1], row + 19, row + 30))
    and now < absolute and now < last + idle
    and (string.sub(ARGV[1], 1, 1) == '0'
      or now - last < tonumber(string.sub(ARGV[1], row + 31, row + 42)))
  then
    return raw
  end
end
