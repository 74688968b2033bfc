-- KEYS: tiers. ARGV: stamp of this call. Ends all sessions of the shard in one step, however many there
-- are: a mark says until when, and the indexes are put aside for the purge. Answers LIVE, now.
local p = string.sub(KEYS[1], 1, -7)
local now = clock()
local mark = redis.call('GET', p .. ':revoked')
if mark and string.match(mark, ':(.*)$') == ARGV[1] then
  redis.call('PERSIST', p .. ':revoked')  -- as in end.lua: a WAIT that follows counts a write
  return {LIVE, now}
end
go_on_at_maxmemory(p)
-- Never the mark of before, whatever the clock does: a session may have been made since.
local before = mark and tonumber(string.match(mark, '^%d+')) or 0
local at = math.max(now, before + 1)
redis.call('SET', p .. ':revoked', string.format('%d:%s', at, ARGV[1]))
local buckets = redis.call('HKEYS', KEYS[1])
buckets[#buckets + 1] = ANONYMOUS
for _, bucket in ipairs(buckets) do
  local index = p .. ':t:' .. bucket
  if redis.call('EXISTS', index) == 1 then
    local aside = string.format('%s:e:%d:%s', p, at, bucket)
    redis.call('RENAME', index, aside)
    redis.call('RPUSH', p .. ':ending', aside)
  end
end
return {LIVE, now}
