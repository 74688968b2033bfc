-- KEYS: tiers. Returns LIVE, now, then name, live, due and earliest deadline of each group.
local p = string.sub(KEYS[1], 1, -7)
local now = clock()
local names = redis.call('HGETALL', KEYS[1])
local found = {LIVE, now}
local function add(group, name)
  local key = p .. ':t:' .. group
  local past = redis.call('ZCOUNT', key, '-inf', now)
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  found[#found + 1] = name
  found[#found + 1] = redis.call('ZCARD', key) - past
  found[#found + 1] = past
  found[#found + 1] = tonumber(first[2] or now)
end
add(ANONYMOUS, ANONYMOUS)
for i = 1, #names, 2 do add(names[i], names[i + 1]) end
return found
