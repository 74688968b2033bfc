-- KEYS: tiers. ARGV: limit, rules. Answers LIVE, due, trimmed, whether there is more (1 or 0), and who
-- was removed as dismiss() lists them.
local p = string.sub(KEYS[1], 1, -7)
local limit = tonumber(ARGV[1])
local rules = read_rules(2)
local now = clock()
local users = user_buckets(p, rules)
local everybody = with_anonymous(users)

-- What is due goes without the bookkeeping of a choice: there may be a million of them.
local found, scores = {}, {}

-- Removes these entries of index. code: why they ended, if not as their records tell.
local function bury(index, entries, code)
  local names = {}
  for _, entry in ipairs(entries) do
    local key = string.sub(entry, 1, KEY)
    local told = obituary(p .. ':s:' .. key, names)
    if code then told = string.sub(told, 1, 4) .. code end
    found[#found + 1] = key .. told
    if #entry > KEY then
      redis.call('ZREM', p .. ':u:' .. string.sub(entry, KEY + 1), key)
      note(scores, now, key, code or told)
    end
  end
  in_portions('UNLINK', nil, names)
  in_portions('ZREM', index, entries)
end

-- What was ended all at once; its index is not in use any more.
local ending = redis.call('LINDEX', p .. ':ending', 0)
while ending and #found < limit do
  bury(ending, redis.call('ZRANGE', ending, 0, limit - #found - 1), 'r')
  if redis.call('EXISTS', ending) == 1 then break end
  redis.call('LPOP', p .. ':ending')
  ending = redis.call('LINDEX', p .. ':ending', 0)
end

for _, bucket in ipairs(everybody) do
  local index = p .. ':t:' .. bucket
  bury(index, redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, limit - #found))
end

in_portions('ZADD', p .. ':ended', scores)
-- Bounded in time and number.
redis.call('ZREMRANGEBYSCORE', p .. ':ended', '-inf', (now - TOLD) * 8)
redis.call('ZREMRANGEBYRANK', p .. ':ended', 0, -1 - math.max(1000, math.floor(rules.total / 20)))

local choice = new_choice(p, now, rules.evict)
if rules.evict and #found < limit then
  local users_held = held(p, users)
  local total = users_held + held(p, {ANONYMOUS})
  local left = limit - #found
  pick(choice, users, math.min(left, users_held - rules.users))
  pick(choice, everybody, math.min(left - choice.total, total - choice.total - rules.total))
end
local trimmed = dismiss(choice)
for _, bucket in ipairs(users) do
  if not rules.names[bucket] and held(p, {bucket}) == 0 then redis.call('HDEL', KEYS[1], bucket) end
end
local more = #found + choice.total >= limit and 1 or 0
return {LIVE, #found, choice.total, more, table.concat(found) .. trimmed}
