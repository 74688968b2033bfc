-- KEYS: a user's name, {P}:u:USER. ARGV: bytes of each record to return. Also, to end the sessions: stamp of
-- this call, reason, and the key of the session to keep or ''. Returns LIVE, then key and first bytes of each
-- live session. The only script whose time grows with the number of a user's sessions.
local p, user = string.sub(KEYS[1], 1, -20), string.sub(KEYS[1], -16)
local now = clock()
local ends = #ARGV == 4
local stays = ends and ARGV[4] ~= '' and resolve(p, now, ARGV[4])
local found, left = {LIVE}, 0

if ends then go_on_at_maxmemory(p) end
for _, tier in ipairs(redis.call('HKEYS', p .. ':tiers')) do
  local names, keys, entries = {}, {}, {}
  for _, key in ipairs(redis.call('ZREVRANGE', own(p, user, tier), 0, -1)) do
    local raw = redis.pcall('GETRANGE', p .. ':s:' .. key, 0, ARGV[1] - 1)
    local r = parse(raw)
    if r and r.user == user and deadline(r) > now and key ~= stays then
      found[#found + 1] = key
      found[#found + 1] = raw
      names[#names + 1] = p .. ':s:' .. key
      keys[#keys + 1] = key
      entries[#entries + 1] = member(key, r)
      if ends and left < MAX_TOMBSTONES_OF_USER then  -- more are not kept
        keep_reason(p, now, key, user, ARGV[3])
        leave_tombstone(p, now, key, user, ARGV[2], ARGV[3])
        left = left + 1
      end
    end
  end
  if ends then
    in_portions('UNLINK', nil, names)
    in_portions('ZREM', own(p, user, tier), keys)
    in_portions('ZREM', p .. ':t:' .. tier, entries)
  end
end
return found
