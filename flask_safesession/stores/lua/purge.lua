-- KEYS: tiers. ARGV: limit, rules. Answers LIVE, due, trimmed, whether there is more (1 or 0), and who
-- was removed as dismiss() lists them.
local p = string.sub(KEYS[1], 1, -7)
local limit = tonumber(ARGV[1])
local rules = read_rules(2)
local now = clock()
local users = user_buckets(p, rules)
local everybody = with_anonymous(users)

-- What is due goes without the bookkeeping of a choice: there may be a million of them.
local found = {}
for _, bucket in ipairs(everybody) do
  local index, names = p .. ':t:' .. bucket, {}
  local due_ones = redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, limit - #found)
  for _, entry in ipairs(due_ones) do
    local key = string.sub(entry, 1, KEY)
    found[#found + 1] = key .. obituary(p .. ':s:' .. key, names)
    if #entry > KEY then redis.call('ZREM', p .. ':u:' .. string.sub(entry, KEY + 1), key) end
  end
  in_portions('UNLINK', nil, names)
  in_portions('ZREM', index, due_ones)
end

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
