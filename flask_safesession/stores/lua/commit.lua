-- KEYS: record. ARGV: expected stamp, slide (1 or 0), draft. Answers now (11 digits, hexadecimal) and
-- the head in one string where all is as expected; otherwise an array with a status.
--
-- As in load.lua, the usual case stands before the common functions.
local raw = redis.pcall('GETRANGE', KEYS[1], 0, 87)
if type(raw) == 'string' and string.sub(raw, 1, 10) == 'SS1' .. ARGV[1]
  and string.find(string.sub(raw, 25, 67), '^%x+$')
then
  local user = string.sub(raw, 72, 72) == '+' and string.sub(raw, 73, 88) or ''
  local tier = string.sub(raw, 68, 72 + #user)
  local created = tonumber(string.sub(raw, 25, 35), 16)
  local last = tonumber(string.sub(raw, 36, 46), 16)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local mark = redis.call('GET', string.sub(KEYS[1], 1, -22) .. ':revoked')
  if (not mark or created > tonumber(string.match(mark, '^%d+')))
    and now < tonumber(string.sub(raw, 47, 57), 16)
    and now < last + tonumber(string.sub(raw, 58, 67), 16)
    and tier == string.sub(ARGV[3], 68, 72 + #user)
  then
    if ARGV[2] == '1' then last = now end
    local absolute = created + tonumber(string.sub(ARGV[3], 47, 57), 16)
    local deadline = math.min(absolute, last + tonumber(string.sub(ARGV[3], 58, 67), 16))
    local head = string.sub(ARGV[3], 4, 10) .. string.sub(raw, 4, 17) .. string.sub(raw, 25, 35)
      .. string.format('%011x%011x', last, absolute) .. string.sub(ARGV[3], 58, 67)
    local bucket = user == '' and 'anonymous' or string.sub(tier, 1, 4)
    -- SET comes first: at maxmemory the script fails whole. 300000 is NET of _common.lua.
    redis.call('SET', KEYS[1], ARGV[3], 'PX', math.max(1, deadline - now + 300000))
    redis.call('SETRANGE', KEYS[1], 3, head)
    redis.call('ZADD', string.sub(KEYS[1], 1, -22) .. ':t:' .. bucket, deadline,
      string.sub(KEYS[1], -18) .. user)
    return string.format('%011x', now) .. 'SS1' .. head .. tier
  end
end
