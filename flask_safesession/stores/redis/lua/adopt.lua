-- KEYS: record. ARGV: link, when adoption ends (0: without a date), limit of links, draft, rules. Returns MOVED
-- and where the link leads, if there is one; UNKNOWN if nothing may be adopted; otherwise what create does.
-- Link and session are made in one step.
local p, key = split(KEYS[1])
local link, made, now = p .. ':a:' .. ARGV[1], p .. ':adopted', clock()
local there = redis.call('GET', link)
if there then return {MOVED, there} end

local ends, is_over = kept(ARGV[2], now), ARGV[2] ~= '0' and tonumber(ARGV[2]) <= now
local r = parse(string.sub(ARGV[4], 1, USER_HEADER))
local links = tonumber(redis.call('HGET', made, 'links') or 0)
if is_over or links >= tonumber(ARGV[3]) or is_closed(p, r.user) then return {UNKNOWN} end
if already(p, now, key, r.stamp) then return {UNKNOWN} end

-- Old places have other clocks: nothing is from the future.
r.created = r.created == 0 and now or math.min(r.created, now)
r.last = r.last == 0 and now or math.max(r.created, math.min(r.last, now))
r.absolute, r.generation = r.created + r.absolute, current
if deadline(r) <= now then return {UNKNOWN} end
local found = admit(p, key, ARGV[4], r, now, read_rules(5), nil)
if found[1] == LIVE then
  redis.call('SET', link, key, 'PX', ends - now)
  keep_until(made, ends, now)
  redis.call('HSET', made, 'links', links + 1, 'last', now)
end
return found
