-- KEYS: shards. ARGV: the layout to set or '', the one that it takes the place of, 'none' or '' (any
-- older one). Answers the
-- layout that is there now; '' if there is none, which means one shard. Epoch 0 is that of a new
-- store: it is set only where nothing is yet.
local p = string.sub(KEYS[1], 1, -8)
local stored = redis.call('GET', KEYS[1]) or ''
local wanted = ARGV[1]
if wanted == '' then return stored end
go_on_at_maxmemory(p)

local function epoch(layout)
  return tonumber(string.match(layout, '^%d+')) or -1
end

local function used()
  return redis.call('EXISTS', p .. ':tiers', p .. ':t:' .. ANONYMOUS) > 0
end

local newer = epoch(wanted) > epoch(stored)
local sure = ARGV[2] == 'sure'
if ARGV[2] ~= '' and not sure then newer = newer and stored == (ARGV[2] == 'none' and '' or ARGV[2]) end
if newer and (sure or epoch(wanted) > 0 or not used()) then
  redis.call('UNLINK', p .. ':arrived:' .. epoch(stored))
  redis.call('SET', KEYS[1], wanted)
  return wanted
end
return stored
