-- KEYS: record. ARGV: stamp of this call, reason, expected stamp or ''. Answers LIVE, now, head and
-- key of what is over now.
--
-- Without an expected stamp the session ends wherever it is: also where it goes on under a new ID
-- that it was given meanwhile, so that a logout is never outrun by a rotation.
local p, key = split(KEYS[1])
local raw = redis.pcall('GET', KEYS[1])
local r, other = parse(raw)
for _ = 1, 20 do
  if r or other[1] ~= BURIED or other[4] == '' or ARGV[3] ~= '' then break end
  key = other[4]
  raw = redis.pcall('GET', p .. ':s:' .. key)
  r, other = parse(raw)
end
local now = clock()
if not r then
  -- This very call has been here before, and its reply was lost.
  if other[1] == BURIED and other[3] == ARGV[1] then return {BURIED, other[2], 'again'} end
  return other
end
if deadline(r) <= now then return due(p, key, r) end
if ARGV[3] ~= '' and r.stamp ~= ARGV[3] then return {CONFLICT, raw} end

remove(p, key, r)
bury(p, key, ARGV[1], ARGV[2])
local found = answer(now, r)
found[4] = key
return found
