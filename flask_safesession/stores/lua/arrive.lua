-- KEYS: shards. ARGV: epoch, name of the tier or '', then key and record of sessions that come from
-- another shard. Answers 1; 0 if this is not the layout any more.
--
-- Each arrives once in an epoch, however often it is sent: a session that has ended here meanwhile
-- is not brought back by somebody who was slow. The set of those that have arrived goes with the epoch.
local p = string.sub(KEYS[1], 1, -8)
local layout = redis.call('GET', KEYS[1]) or ''
if string.match(layout, '^%d+') ~= ARGV[1] then return 0 end
if #ARGV == 4 then go_on_at_maxmemory(p) end  -- a visitor waits for it
local now = clock()
local arrived = p .. ':arrived:' .. ARGV[1]

for i = 3, #ARGV, 2 do
  local key, name = ARGV[i], p .. ':s:' .. ARGV[i]
  local raw = 'SS1' .. string.sub(ARGV[i + 1], 4)
  local r = parse(string.sub(raw, 1, HEADER))
  if r and redis.call('SADD', arrived, key) == 1 and deadline(r) > now
    and redis.call('EXISTS', name) == 0
  then
    redis.call('SET', name, raw, 'PX', deadline(r) - now + NET)
    redis.call('ZADD', p .. ':t:' .. r.bucket, deadline(r), member(key, r))
    if r.user ~= '' then
      redis.call('ZADD', p .. ':u:' .. r.user, r.created, key)
      redis.call('HSETNX', p .. ':tiers', r.tier, ARGV[2] == '' and r.tier or ARGV[2])
    end
  end
end
return 1
