-- KEYS: audit (a hash with the cursors of a round that goes on over many calls). ARGV: limit, pattern
-- of the keys to walk. Answers LIVE, mended, whether the round is over (1 or 0).
--
-- A round walks each bucket of the index for entries without a record, then the keys for records
-- without an entry and for users' entries without a session.
local p = string.sub(KEYS[1], 1, -7)
local limit = tonumber(ARGV[1])
local now = clock()
local mended = 0
go_on_at_maxmemory(p)

local function agrees(r, key, bucket, score)
  return r and r.bucket == bucket and deadline(r) == tonumber(score)
end

local function check_entry(bucket, entry, score)
  local key, user = string.sub(entry, 1, KEY), string.sub(entry, KEY + 1)
  local r, other = parse(head(p .. ':s:' .. key))
  if other and other[1] == NEWER then return end
  if agrees(r, key, bucket, score) and member(key, r) == entry then return end
  mended = mended + 1
  redis.call('ZREM', p .. ':t:' .. bucket, entry)
  if user ~= '' then redis.call('ZREM', p .. ':u:' .. user, key) end
end

local function check_record(key)
  local r = parse(head(p .. ':s:' .. key))
  if not r then return end
  local score = redis.call('ZSCORE', p .. ':t:' .. r.bucket, member(key, r))
  local listed = r.user == '' or (redis.call('ZSCORE', p .. ':u:' .. r.user, key)
    and redis.call('HGET', p .. ':tiers', r.tier))
  if score and tonumber(score) == deadline(r) and listed then return end
  mended = mended + 1
  if deadline(r) <= now then return remove(p, key, r) end
  redis.call('ZADD', p .. ':t:' .. r.bucket, deadline(r), member(key, r))
  if r.user ~= '' then
    redis.call('ZADD', p .. ':u:' .. r.user, r.created, key)
    redis.call('HSETNX', p .. ':tiers', r.tier, r.tier)
  end
end

local function check_user(user)
  for _, key in ipairs(redis.call('ZRANGE', p .. ':u:' .. user, 0, -1)) do
    local r, other = parse(head(p .. ':s:' .. key))
    local left = other and other[1] == NEWER
    if not left and (not r or r.user ~= user) then
      mended = mended + 1
      redis.call('ZREM', p .. ':u:' .. user, key)
    end
  end
end

local function walk_bucket(bucket, cursor)
  local page = redis.call('ZSCAN', p .. ':t:' .. bucket, cursor, 'COUNT', limit)
  for i = 1, #page[2], 2 do check_entry(bucket, page[2][i], page[2][i + 1]) end
  return page[1]
end

local function walk_keys(cursor)
  local page = redis.call('SCAN', cursor, 'MATCH', ARGV[2], 'COUNT', limit)
  for _, name in ipairs(page[2]) do
    local kind, rest = string.sub(name, #p + 1, #p + 3), string.sub(name, #p + 4)
    if kind == ':s:' and #rest == KEY then check_record(rest) end
    if kind == ':u:' and #rest == 16 then check_user(rest) end
  end
  return page[1]
end

-- Where the round stands: the index of a walk (0: anonymous, then the tiers, last the keys).
local walks = {ANONYMOUS}
local tiers = redis.call('HKEYS', p .. ':tiers')
table.sort(tiers)
for _, tag in ipairs(tiers) do walks[#walks + 1] = tag end
local at = tonumber(redis.call('HGET', KEYS[1], 'walk') or '1')
local cursor = redis.call('HGET', KEYS[1], 'cursor') or '0'
if at <= #walks then
  cursor = walk_bucket(walks[at], cursor)
else
  cursor = walk_keys(cursor)
end
local over = false
if cursor == '0' then
  over = at > #walks
  at = over and 1 or at + 1
end
redis.call('HSET', KEYS[1], 'walk', at, 'cursor', cursor)
return {LIVE, mended, over and 1 or 0}
