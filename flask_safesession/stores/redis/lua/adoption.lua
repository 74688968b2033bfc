-- KEYS: counts, {P}:adopted. ARGV: what to do, and its arguments. Returns LIVE, now, and for
--   'follow', link: where it leads, or ''
--   'point', link, key, when adoption ends (0: without a date): nothing more
--   'close', user or '', when adoption ends, limit of closings: nothing more
--   'count': the links that were made, and when the last one was
local p, now = string.sub(KEYS[1], 1, -9), clock()
if ARGV[1] == 'follow' then
  return {LIVE, now, redis.call('GET', p .. ':a:' .. ARGV[2]) or ''}
elseif ARGV[1] == 'count' then
  return {LIVE, now, tonumber(redis.call('HGET', KEYS[1], 'links') or 0), tonumber(redis.call('HGET', KEYS[1], 'last') or 0)}
end

go_on_at_maxmemory(p)
local ends = kept(ARGV[1] == 'point' and ARGV[4] or ARGV[3], now)
if ARGV[1] == 'point' then
  redis.call('SET', p .. ':a:' .. ARGV[2], ARGV[3], 'NX', 'PX', ends - now)
else
  local closed = tonumber(redis.call('HGET', KEYS[1], 'closed') or 0)
  local name = p .. ':c:' .. ((ARGV[2] == '' or closed >= tonumber(ARGV[4])) and 'all' or ARGV[2])
  local fresh = redis.call('EXISTS', name) == 0
  redis.call('SET', name, '1', 'PX', ends - now)
  keep_until(KEYS[1], ends, now)
  if fresh then redis.call('HSET', KEYS[1], 'closed', closed + 1) end
end
return {LIVE, now}
