-- KEYS: record. ARGV: stamp of this call, reason, expected stamp or ''. Answers LIVE, now, head and
-- key of what is over now. Without an expected stamp the session ends wherever it is.
local p, key = split(KEYS[1])
local r, other
key, r, other = locate(p, key, ARGV[3])
local now = clock()
if not r then
  -- This very call has been here before, and its reply was lost. It writes all the same: a WAIT that
  -- follows counts the replicas that have the last write of its connection.
  if other[1] == BURIED and other[3] == ARGV[1] then
    bury(p, key, ARGV[1], other[2] .. other[4])
    return {BURIED, other[2], 'again'}
  end
  return no_record(p, key, other)
end
if deadline(r) <= now then return due(p, key, r) end
if ARGV[3] ~= '' and r.stamp ~= ARGV[3] then return {CONFLICT, redis.call('GET', KEYS[1])} end

remove(p, key, r)
-- Of strangers' sessions nobody is told why they ended.
bury(p, key, ARGV[1], r.user == '' and CODES[ARGV[2]] and 'ended' or ARGV[2])
if CODES[ARGV[2]] then remember(p, key, r, ARGV[2]) end
local found = answer(now, r)
found[4] = key
return found
