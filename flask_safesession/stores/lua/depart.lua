-- KEYS: shards. ARGV: epoch, tag of a bucket of the index, cursor, limit, bytes. Answers the next
-- cursor, whether the same page has more (1 or 0), the tier's name, then key and record of sessions of that bucket that belong to another
-- shard. From here on nobody uses them here; once they have arrived there, forget.lua removes them.
--
-- What was on its way already is answered again: its mover may have died.
local p = string.sub(KEYS[1], 1, -8)
local bucket, budget = ARGV[2], tonumber(ARGV[5])
local layout = redis.call('GET', KEYS[1]) or ''
if string.match(layout, '^%d+') ~= ARGV[1] then return {} end

local page = redis.call('ZSCAN', p .. ':t:' .. bucket, ARGV[3], 'COUNT', ARGV[4])
local found = {page[1], 0, redis.call('HGET', p .. ':tiers', bucket) or ''}
for i = 1, #page[2], 2 do
  local key = string.sub(page[2][i], 1, KEY)
  local name = p .. ':s:' .. key
  local raw = not belongs(p, key) and redis.pcall('GET', name)
  if type(raw) == 'string' and string.find(raw, '^SS[2-9]') then return {'newer'} end
  if type(raw) == 'string' and string.find(raw, '^SS[1M]') then
    redis.call('SETRANGE', name, 0, 'SSM')
    redis.call('ZADD', p .. ':t:' .. bucket, LEAVING, page[2][i])
    found[#found + 1] = key
    found[#found + 1] = raw
    budget = budget - #raw
    if budget < 0 then
      found[1], found[2] = ARGV[3], 1
      break
    end
  end
end
return found
