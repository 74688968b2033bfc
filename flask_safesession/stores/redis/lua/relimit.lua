-- KEYS: relimit (a hash: the limits of the last round, and where it stands if it goes on). ARGV: how many
-- entries to look at, limits as in load.lua without what stands before them. Answers LIVE, how many
-- sessions were put under shorter limits, whether nothing more is to be done (1 or 0).
--
-- A round begins where a limit is shorter than it was in the last one, and walks each bucket of the
-- index. What is due under the shorter limits is left to the purge.
local p = string.sub(KEYS[1], 1, -9)
local now = clock()

local function times_in(limits, tag)
  local at = string.find(limits, '|' .. tag, 1, true) or 1
  return string.sub(limits, at + 5, at + 16), string.sub(limits, at + 17, at + 28)
end

local function shorter(mine, theirs)
  for tag in string.gmatch(mine .. theirs, '|(....)') do
    local idle, lifetime = times_in(mine, tag)
    local other_idle, other_lifetime = times_in(theirs, tag)
    if idle < other_idle or lifetime < other_lifetime then return true end
  end
  return false
end

local limits = redis.call('HGET', KEYS[1], 'limits')
local walk, cursor = redis.call('HGET', KEYS[1], 'walk'), redis.call('HGET', KEYS[1], 'cursor')
go_on_at_maxmemory(p)
if not limits or shorter(ARGV[2], limits) then
  limits, walk, cursor = ARGV[2], 1, '0'
  redis.call('HSET', KEYS[1], 'limits', limits)
elseif not walk then
  if limits ~= ARGV[2] then redis.call('HSET', KEYS[1], 'limits', ARGV[2]) end
  return {LIVE, 0, 1}
end

local function relimit(bucket, entry)
  local key = string.sub(entry, 1, KEY)
  local name = p .. ':s:' .. key
  local r = parse(head(name))
  if not r or r.generation ~= current or r.bucket ~= bucket or r.user ~= string.sub(entry, KEY + 1) then return 0 end
  local idle, lifetime = times_in(limits, r.tier)
  local absolute = r.created + tonumber(lifetime)
  if r.idle <= tonumber(idle) and r.absolute <= absolute then return 0 end
  r.idle, r.absolute = math.min(r.idle, tonumber(idle)), math.min(r.absolute, absolute)
  redis.call('PEXPIRE', name, ttl(r, now))
  redis.call('SETRANGE', name, 24, times(r))
  index(p, key, r)
  return 1
end

local walks = {ANONYMOUS}
local tiers = redis.call('HKEYS', p .. ':tiers')
table.sort(tiers)
for _, tag in ipairs(tiers) do walks[#walks + 1] = tag end
walk = tonumber(walk)
local changed = 0
if walk <= #walks then
  local page = redis.call('ZSCAN', p .. ':t:' .. walks[walk], cursor, 'COUNT', ARGV[1])
  for i = 1, #page[2], 2 do changed = changed + relimit(walks[walk], page[2][i]) end
  cursor = page[1]
  if cursor == '0' then walk = walk + 1 end
end
if walk > #walks then
  redis.call('HDEL', KEYS[1], 'walk', 'cursor')
  return {LIVE, changed, 1}
end
redis.call('HSET', KEYS[1], 'walk', walk, 'cursor', cursor)
return {LIVE, changed, 0}
