-- KEYS: shards. ARGV: cursor, how many to look at, pattern of the keys to walk. Answers the next cursor,
-- then key, tombstone and milliseconds left of each renewed key that belongs to another shard.
local p = string.sub(KEYS[1], 1, -8)
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[3], 'COUNT', ARGV[2])
local found = {page[1]}
for _, name in ipairs(page[2]) do
  local _, other = parse(head(name))
  local key = string.sub(name, -KEY)
  if other and other[1] == BURIED and other[2] == 'renewed' and not belongs(p, key) then
    found[#found + 1] = key
    found[#found + 1] = redis.call('GET', name)
    found[#found + 1] = redis.call('PTTL', name)
  end
end
return found
