-- KEYS: a user's set. ARGV: bytes of each record to be told, stamp of this call, reason; then, if they are
-- to be ended and not only told, the key that is to stay or ''. Answers LIVE, then key and first bytes of
-- each live session, newest first.
local p, user = string.sub(KEYS[1], 1, -20), string.sub(KEYS[1], -16)
local ends = #ARGV == 4
local keep = ''
if ends and ARGV[4] ~= '' then
  local where, _, other = locate(p, ARGV[4], '')
  keep = other and other[1] == BURIED and other[4] ~= '' and other[4] or where
end
local now = clock()
local found = {LIVE}
-- What ends is taken out of the indexes at once: there may be a thousand.
local gone, entries, scores = {}, {}, {}

if ends then go_on_at_maxmemory(p) end
for _, key in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, -1)) do
  local raw = redis.pcall('GETRANGE', p .. ':s:' .. key, 0, ARGV[1] - 1)
  local r = parse(raw)
  if r and r.user == user and deadline(r) > now and key ~= keep then
    found[#found + 1] = key
    found[#found + 1] = raw
    if ends then
      bury(p, key, ARGV[2], ARGV[3])
      gone[#gone + 1] = key
      entries[r.bucket] = entries[r.bucket] or {}
      table.insert(entries[r.bucket], member(key, r))
      scores[#scores + 1] = now * 8 + CODES[ARGV[3]]
      scores[#scores + 1] = key
    end
  end
end
in_portions('ZREM', KEYS[1], gone)
for bucket, ours in pairs(entries) do in_portions('ZREM', p .. ':t:' .. bucket, ours) end
in_portions('ZADD', p .. ':ended', scores)
return found
