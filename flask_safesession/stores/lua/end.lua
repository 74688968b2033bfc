-- KEYS: record. ARGV: stamp of this call, reason, expected stamp or ''. Answers LIVE, now, head and
-- key of what is over now. Without an expected stamp the session ends wherever it is.
local p, key = split(KEYS[1])
local r, other
key, r, other = locate(p, key, ARGV[3])
local now = clock()
if not r then
  -- This very call has been here before, and its reply was lost.
  if other[1] == BURIED and other[3] == ARGV[1] then return {BURIED, other[2], 'again'} end
  return other
end
if deadline(r) <= now then return due(p, key, r) end
if ARGV[3] ~= '' and r.stamp ~= ARGV[3] then return {CONFLICT, redis.call('GET', KEYS[1])} end

remove(p, key, r)
bury(p, key, ARGV[1], ARGV[2])
local found = answer(now, r)
found[4] = key
return found
