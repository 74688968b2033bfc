-- KEYS: record. ARGV: slide (1; 0 if not; - to write nothing at all) and limits, rows of '|tag', idle,
-- lifetime and touch by 12 digits each, the default's first. Answers the stored bytes as they are where nothing is to be
-- written; otherwise an array: LIVE, now, head, stored bytes, or another status.
--
-- The first part is the way of nearly every request, so it stands before the common functions, whose
-- making costs more than this does. Whatever is out of the ordinary is left to the part after them.
local raw = redis.pcall('GET', KEYS[1])
local mark = redis.pcall('GET', string.sub(KEYS[1], 1, -22) .. ':revoked')
local unsure = type(mark) == 'table'  -- while the slot is moved, the other node may have it
if unsure and string.sub(ARGV[1], 1, 1) ~= '-' then return mark end
if not unsure and type(raw) == 'string' and string.sub(raw, 1, 3) == 'SS1'
  and (string.sub(raw, 72, 72) == '-' or (string.sub(raw, 72, 72) == '+' and #raw >= 88))
  and string.find(string.sub(raw, 25, 67), '^%x+$')
then
  local row = string.find(ARGV[1], '|' .. string.sub(raw, 68, 71), 1, true) or 2
  local created = tonumber(string.sub(raw, 25, 35), 16)
  local last = tonumber(string.sub(raw, 36, 46), 16)
  local absolute = tonumber(string.sub(raw, 47, 57), 16)
  local idle = tonumber(string.sub(raw, 58, 67), 16)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  if idle <= tonumber(string.sub(ARGV[1], row + 5, row + 16))
    and absolute <= created + tonumber(string.sub(ARGV[1], row + 17, row + 28))
    and now < absolute and now < last + idle
    and (not mark or created > tonumber(string.match(mark, '^%d+')))
    and (string.sub(ARGV[1], 1, 1) == '-' or string.sub(ARGV[1], 1, 1) == '1'
      and now - last < tonumber(string.sub(ARGV[1], row + 29, row + 40)))
  then
    return raw
  end
end
