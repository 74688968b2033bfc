-- KEYS: record. ARGV: stamp of this call, reason, expected stamp or '', and if the session goes on in another
-- shard its key there, 1 if by a sign-in, else 0, and its user tag, in one string. Returns LIVE, now and record of
-- the ended session, and its key. Without an expected stamp the session ends wherever it is.
local p, key = split(KEYS[1])
local now = clock()
if ARGV[3] == '' then key = resolve(p, now, key) end
local r, other = find(p, now, key)
if not r then
  -- A repetition of this call, whose reply was lost. It writes all the same: a WAIT that follows counts
  -- the replicas that have the connection's last write.
  if other[1] == TOMBSTONE and other[3] == ARGV[1] then
    go_on_at_maxmemory(p)
    redis.call('SET', p .. ':none', '')
    redis.call('UNLINK', p .. ':none')
    other[6] = 'again'
  end
  return other
end
local raw = redis.call('GET', p .. ':s:' .. key)
if ARGV[3] ~= '' and r.stamp ~= ARGV[3] then return {CONFLICT, dated(now, raw)} end

local successor = string.sub(ARGV[4], KEY + 2)
finish(p, now, key, r, ARGV[1], ARGV[2], ARGV[4], successor ~= '' and successor or nil)
return {LIVE, dated(now, raw), key}
