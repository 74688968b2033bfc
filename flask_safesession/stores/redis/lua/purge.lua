-- KEYS: tiers. ARGV: limit, rules. Returns LIVE, due, trimmed, whether there is more (1 or 0), and the
-- removed sessions as dismiss() lists them.
local p = string.sub(KEYS[1], 1, -7)
local limit = tonumber(ARGV[1])
local rules = read_rules(2)
local now = clock()
local users = user_groups(p, rules)
local everybody = with_anonymous(users)

-- Due sessions are removed without a choice and its tables: there may be a million of them.
local found, seen = {}, 0

-- Removes these entries of index, which has those of a group of a generation. ended: end_all put the index
-- aside; a session without a record was met by a request, which has reported it.
local function clear(index, entries, group, generation, ended)
  local names = {}
  for _, entry in ipairs(entries) do
    local key, user, before = string.sub(entry, 1, KEY), string.sub(entry, KEY + 1), #names
    local note, reason = removal_note(p .. ':s:' .. key, names, group)
    if #names > before or not ended then
      found[#found + 1] = key .. note
      keep_reason(p, now, key, user, reason)
    end
    if user ~= '' then redis.call('ZREM', own(p, user, group, generation), key) end
  end
  seen = seen + #entries
  in_portions('UNLINK', nil, names)
  in_portions('ZREM', index, entries)
end

go_on_at_maxmemory(p)
for _, name in ipairs({':tombstones:' .. ANONYMOUS, ':tombstones:users'}) do
  forget(p .. name, TOMBSTONE_TTL, now, limit)
end
forget(p .. ':ended', VISITOR_REASON_TTL, now, limit)

-- What end_all has ended; its index is no longer in use.
local ending = redis.call('LINDEX', p .. ':ending', 0)
while ending and seen < limit do
  local generation, group = string.match(ending, ':e:(%x+):(.*)$')
  clear(ending, redis.call('ZRANGE', ending, 0, limit - seen - 1), group, generation, true)
  if redis.call('EXISTS', ending) == 1 then break end
  redis.call('LPOP', p .. ':ending')
  ending = redis.call('LINDEX', p .. ':ending', 0)
end

for _, group in ipairs(everybody) do
  local index = p .. ':t:' .. group
  clear(index, redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, limit - seen), group)
end

local choice = new_choice(p, now, rules.evict)
if rules.evict and seen < limit then
  local users_held = held(p, users)
  local total = users_held + held(p, {ANONYMOUS})
  local left = limit - seen
  pick(choice, users, math.min(left, users_held - rules.users))
  pick(choice, everybody, math.min(left - choice.total, total - choice.total - rules.total))
end
local trimmed = dismiss(choice)
for _, group in ipairs(users) do
  if not rules.names[group] and held(p, {group}) == 0 then redis.call('HDEL', KEYS[1], group) end
end
local more = seen + choice.total >= limit and 1 or 0
return {LIVE, #found, choice.total, more, table.concat(found) .. trimmed}
