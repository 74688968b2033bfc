-- KEYS: record. ARGV: expected stamp, touch interval ('': this is not a use), draft. Returns now (11 digits,
-- hexadecimal) and the header in one string if all is as expected; otherwise an array with a status.
--
-- As in load.lua, the usual case comes before the common functions.
local raw = redis.pcall('GETRANGE', KEYS[1], 0, 95)
if type(raw) == 'string' and string.sub(raw, 1, 10) == 'SS1' .. ARGV[1]
  and string.find(string.sub(raw, 25, 75), '^%x+$')
then
  local user = string.sub(raw, 80, 80) == '+' and string.sub(raw, 81, 96) or ''
  local filed = string.sub(raw, 76, 80 + #user)
  local created = tonumber(string.sub(raw, 25, 35), 16)
  local last = tonumber(string.sub(raw, 36, 46), 16)
  -- 2 ^ 39 is EXTENDED of _common.lua.
  local idle = tonumber(string.sub(raw, 58, 67), 16) % 2 ^ 39
  local due = math.min(tonumber(string.sub(raw, 47, 57), 16), last + idle)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local p, key = string.sub(KEYS[1], 1, -22), string.sub(KEYS[1], -18)
  local generation = string.sub(redis.call('GET', p .. ':generation') or '00000', 1, 5)
  if string.sub(raw, 68, 72) == generation and now < due
    and filed == string.sub(ARGV[3], 76, 80 + #user)
  then
    local touch = tonumber(ARGV[2])
    local used = touch and now > last and (last == created or now - last >= touch)
    if used then last = now end
    local absolute = created + tonumber(string.sub(ARGV[3], 47, 57), 16)
    local deadline = math.min(absolute, last + tonumber(string.sub(ARGV[3], 58, 67), 16) % 2 ^ 39)
    local front = string.sub(ARGV[3], 1, 10) .. string.sub(raw, 4, 17) .. string.sub(raw, 25, 35)
      .. string.format('%011x%011x', last, absolute) .. string.sub(ARGV[3], 58, 67) .. generation
    local tier = string.sub(filed, 1, 4)
    -- SET comes first, as in write() of _common.lua. 300000 is NET of _common.lua.
    redis.call('SET', KEYS[1], ARGV[3], 'PX', math.max(1, deadline - now + 300000))
    redis.call('SETRANGE', KEYS[1], 0, front)
    if deadline ~= due then
      redis.call('ZADD', p .. ':t:' .. (user == '' and 'anonymous' or tier), deadline, key .. user)
    end
    if used and user ~= '' then  -- as place() of _common.lua
      redis.call('ZADD', p .. ':u:' .. user .. tier .. generation,
        2 ^ 52 + last * 1000 + tonumber(time[2]) % 1000, key)
    end
    return string.format('%011x', now) .. front .. string.sub(ARGV[3], 73, 80 + #user)
  end
end
