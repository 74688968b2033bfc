-- KEYS: tiers. ARGV: limit, rules. Answers LIVE, due, trimmed, whether there is more (1 or 0), and who
-- was removed as dismiss() lists them.
local p = string.sub(KEYS[1], 1, -7)
local limit = tonumber(ARGV[1])
local rules = read_rules(2)
local choice = new_choice(p, clock(), rules.evict)
local users = user_buckets(p, rules)
for _, bucket in ipairs(with_anonymous(users)) do
  if choice.total < limit then sweep(choice, {bucket}, limit - choice.total) end
end
local due_ones = choice.total
if rules.evict then
  local users_held = held(p, users)
  local total = users_held + held(p, {ANONYMOUS})
  pick(choice, users, math.min(limit - choice.total, users_held - choice.users - rules.users))
  local wanted = math.min(limit - choice.total, total - choice.total - rules.total)
  pick(choice, with_anonymous(users), wanted)
end
local removed = dismiss(choice)
for _, bucket in ipairs(users) do
  if not rules.names[bucket] and held(p, {bucket}) == 0 then redis.call('HDEL', KEYS[1], bucket) end
end
return {LIVE, due_ones, choice.total - due_ones, choice.total >= limit and 1 or 0, removed}
