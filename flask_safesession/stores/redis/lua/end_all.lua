-- KEYS: tiers. ARGV: stamp of this call. Ends all sessions of the shard in one step, however many there
-- are: records of another generation are over, and the indexes are put aside for the purge. Returns LIVE.
local p = string.sub(KEYS[1], 1, -7)
local name = p .. ':generation'
local stored = redis.call('GET', name)
go_on_at_maxmemory(p)
if stored and string.sub(stored, 7) == ARGV[1] then
  redis.call('SET', name, stored)  -- as in end.lua: a WAIT that follows counts a write
  return {LIVE}
end
redis.call('SET', name, string.format('%05x:', (tonumber(current, 16) + 1) % 0x100000) .. ARGV[1])
local groups = redis.call('HKEYS', KEYS[1])
groups[#groups + 1] = ANONYMOUS
for _, group in ipairs(groups) do
  local index = p .. ':t:' .. group
  if redis.call('EXISTS', index) == 1 then
    local aside = p .. ':e:' .. current .. ':' .. group
    redis.call('RENAME', index, aside)
    redis.call('RPUSH', p .. ':ending', aside)
  end
end
return {LIVE}
