-- KEYS: tiers. ARGV: group, score and entry to go on after ('' to begin), how many, bytes of each record
-- to return. Returns LIVE, now, then score, entry and first bytes of each live session of the group,
-- those that end last first.
local p = string.sub(KEYS[1], 1, -7)
local index, limit = p .. ':t:' .. ARGV[1], tonumber(ARGV[4])
local now = clock()
local found, at, count = {LIVE, now}, 0, 0
local from = ARGV[2] == '' and '+inf' or ARGV[2]
while count < limit and at < 50 * limit do  -- a bound, should records be missing
  local page = redis.call('ZREVRANGEBYSCORE', index, from, '(' .. string.format('%.0f', now),
    'WITHSCORES', 'LIMIT', at, limit)
  if #page == 0 then break end
  at = at + #page / 2
  for i = 1, #page, 2 do
    local entry, score = page[i], page[i + 1]
    local passed = score == ARGV[2] and entry >= ARGV[3]
    local raw = not passed and redis.pcall('GETRANGE', p .. ':s:' .. string.sub(entry, 1, KEY), 0, ARGV[5] - 1)
    if count < limit and raw and parse(raw) then
      found[#found + 1] = score
      found[#found + 1] = entry
      found[#found + 1] = raw
      count = count + 1
    end
  end
end
return found
