-- KEYS: audit (a hash: the position of a round, which takes many calls, and its limits).
-- ARGV: how many entries to read, pattern of the keys to walk, limits as in load.lua without the letter
-- before them. Returns LIVE, differences fixed, sessions put under shorter limits, whether limits have become
-- shorter and this round has not yet seen all sessions, whether the round is over (1 or 0 each).
--
-- A round walks each group of the index for entries without a record, then the keys for records without an
-- entry and for users' entries without a session. It begins anew when a limit is shorter than in the call
-- before. The purge removes what is due under shorter limits.
local p = string.sub(KEYS[1], 1, -7)
local limit = tonumber(ARGV[1])
local now = clock()
local fixed, limited = 0, 0
go_on_at_maxmemory(p)

local function times_in(limits, r)
  local at = row_of(limits, r) or 1
  return string.sub(limits, at + 5, at + 16), string.sub(limits, at + 17, at + 28)
end

local function shorter(mine, theirs)
  for mark, tag in string.gmatch(mine .. theirs, '([|+])(....)') do
    local r = {extended = mark == '+', tier = tag}
    local idle, lifetime = times_in(mine, r)
    local other_idle, other_lifetime = times_in(theirs, r)
    if idle < other_idle or lifetime < other_lifetime then return true end
  end
  return false
end

-- Puts the session under the limits if they are shorter than its own.
local function shorten(key, r)
  local idle, lifetime = times_in(ARGV[3], r)
  local absolute = r.created + tonumber(lifetime)
  if r.idle <= tonumber(idle) and r.absolute <= absolute then return end
  limited = limited + 1
  r.idle, r.absolute = math.min(r.idle, tonumber(idle)), math.min(r.absolute, absolute)
  redis.call('PEXPIRE', p .. ':s:' .. key, ttl(r, now))
  redis.call('SETRANGE', p .. ':s:' .. key, 24, times(r))
  index(p, key, r)
end

local function agrees(r, key, group, score)
  return r and r.group == group and deadline(r) == tonumber(score)
end

local function check_entry(group, entry, score)
  local key, user = string.sub(entry, 1, KEY), string.sub(entry, KEY + 1)
  local r, other = parse(head(p .. ':s:' .. key))
  if other and other[1] == NEWER then return end
  if agrees(r, key, group, score) and member(key, r) == entry then return shorten(key, r) end
  fixed = fixed + 1
  redis.call('ZREM', p .. ':t:' .. group, entry)
  if user ~= '' then redis.call('ZREM', own(p, user, group), key) end
end

-- Returns whether the place of a session in its user's index is right, microseconds aside.
local function placed(r, key)
  if r.user == '' then return true end
  local score = tonumber(redis.call('ZSCORE', own(p, r.user, r.tier), key) or -1)
  return score >= place(r) and score < place(r) + 1000 and redis.call('HEXISTS', p .. ':tiers', r.tier) == 1
end

local function check_record(key)
  local r = parse(head(p .. ':s:' .. key))
  if not r then return end
  local deadlines = p .. ':t:' .. r.group
  if r.generation ~= current then deadlines = p .. ':e:' .. r.generation .. ':' .. r.group end
  local score = tonumber(redis.call('ZSCORE', deadlines, member(key, r)) or -1)
  if r.generation ~= current and score >= 0 then return end  -- the purge removes it
  if score == deadline(r) and placed(r, key) then return end
  fixed = fixed + 1
  if deadline(r) <= now then return remove(p, key, r) end
  index(p, key, r)
  index_user(p, key, r)
  if r.user ~= '' then redis.call('HSETNX', p .. ':tiers', r.tier, r.tier) end
  shorten(key, r)
end

-- Removes entries of a user's index without a session of that user. Of a long index it checks a part,
-- another one in each round.
local function check_user(name)
  local count = redis.call('ZCARD', name)
  local from = count > limit and now % count or 0
  for _, key in ipairs(redis.call('ZRANGE', name, from, from + limit - 1)) do
    local r, other = parse(head(p .. ':s:' .. key))
    local left = other and other[1] == NEWER
    if not left and (not r or own(p, r.user, r.tier, r.generation) ~= name) then
      fixed = fixed + 1
      redis.call('ZREM', name, key)
    end
  end
end

-- Lists for the purge what end_all put aside, if it is not on the list.
local function check_aside(name)
  for _, listed in ipairs(redis.call('LRANGE', p .. ':ending', 0, -1)) do
    if listed == name then return end
  end
  fixed = fixed + 1
  redis.call('RPUSH', p .. ':ending', name)
end

-- Deletes a table of ended sessions whose parts differ: a lost reason breaks no promise.
local function check_table(name)
  local count = redis.call('ZCARD', name)
  local users = redis.call('ZCARD', name .. ':users')
  if redis.call('HLEN', name .. ':keys') == count and users <= count then return end
  fixed = fixed + 1
  redis.call('UNLINK', name, name .. ':keys', name .. ':users')
end

local function walk_group(group, cursor)
  local page = redis.call('ZSCAN', p .. ':t:' .. group, cursor, 'COUNT', limit)
  for i = 1, #page[2], 2 do check_entry(group, page[2][i], page[2][i + 1]) end
  return page[1]
end

local function walk_keys(cursor)
  local page = redis.call('SCAN', cursor, 'MATCH', ARGV[2], 'COUNT', limit)
  for _, name in ipairs(page[2]) do
    local kind, rest = string.sub(name, #p + 1, #p + 3), string.sub(name, #p + 4)
    if kind == ':s:' and #rest == KEY then check_record(rest) end
    if kind == ':u:' and #rest == 25 then check_user(name) end
    if kind == ':e:' then check_aside(name) end
  end
  return page[1]
end

-- The position of the round: the index of a walk (1: anonymous, then the tiers, last the keys).
local walks = {ANONYMOUS}
local tiers = redis.call('HKEYS', p .. ':tiers')
table.sort(tiers)
for _, tag in ipairs(tiers) do walks[#walks + 1] = tag end
local limits = redis.call('HGET', KEYS[1], 'limits')
local at, cursor = tonumber(redis.call('HGET', KEYS[1], 'walk') or '1'), redis.call('HGET', KEYS[1], 'cursor') or '0'
local behind = redis.call('HGET', KEYS[1], 'behind') == '1'
if not limits or shorter(ARGV[3], limits) then at, cursor, behind = 1, '0', true end
if at <= #walks then
  cursor = walk_group(walks[at], cursor)
else
  cursor = walk_keys(cursor)
end
local over = false
if cursor == '0' then
  over = at > #walks
  for _, name in ipairs(over and {':tombstones:anonymous', ':tombstones:users', ':ended'} or {}) do
    check_table(p .. name)
  end
  at = over and 1 or at + 1
  behind = behind and at <= #walks and not over
end
redis.call('HSET', KEYS[1], 'limits', ARGV[3], 'walk', at, 'cursor', cursor, 'behind', behind and 1 or 0)
return {LIVE, fixed, limited, behind and 1 or 0, over and 1 or 0}
