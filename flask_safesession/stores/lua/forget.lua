-- KEYS: shards. ARGV: keys of sessions that have arrived in another shard. Answers 1.
local p = string.sub(KEYS[1], 1, -8)
local layout = redis.call('GET', KEYS[1]) or ''
if string.match(layout, '^%d+') ~= ARGV[1] then return 0 end
for i = 2, #ARGV do
  local key = ARGV[i]
  local raw = head(p .. ':s:' .. key)
  if type(raw) == 'string' and string.sub(raw, 1, 3) == 'SSM' then
    local r = parse('SS1' .. string.sub(raw, 4))
    if r then remove(p, key, r) end
  end
end
return 1
