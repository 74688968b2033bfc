-- Put before the scripts that admit a session. Chooses the sessions to remove for it: reads only, so
-- that a refusal changes nothing. Twin of stores/admission.py.
local SWEEP = 3
local MAX_EVICTIONS = 100

local function new_choice(p, now, evict)
  return {p = p, now = now, evict = evict, victims = {}, taken = {}, total = 0, users = 0, evicted = 0}
end

local function count(choice, group)
  choice.total = choice.total + 1
  if group ~= ANONYMOUS then choice.users = choice.users + 1 end
end

local function take(choice, entry, group, evicted)
  choice.taken[string.sub(entry, 1, KEY)] = true
  choice.victims[#choice.victims + 1] = {entry, group, evicted}
  if evicted then choice.evicted = choice.evicted + 1 end
  count(choice, group)
end

-- Chooses up to wanted sessions of these groups in order, those nearest their end first. Returns how many.
local function pick(choice, groups, wanted)
  local found = 0
  for _, group in ipairs(groups) do
    local at, more = 0, true
    while more and found < wanted do
      local entries = redis.call('ZRANGE', choice.p .. ':t:' .. group, at, at + wanted, 'WITHSCORES')
      more = #entries > 0
      at = at + #entries / 2
      for i = 1, #entries, 2 do
        local evicted = tonumber(entries[i + 1]) > choice.now
        more = more and found < wanted and (choice.evict or not evicted)
        if more and not choice.taken[string.sub(entries[i], 1, KEY)] then
          take(choice, entries[i], group, evicted)
          found = found + 1
        end
      end
    end
  end
  return found
end

local function make_room(choice, groups, excess)
  -- Where the store refuses, the evictions of the user's own sessions do not count: a hundred of them
  -- would admit a session above the cap.
  local wanted = math.min(excess, MAX_EVICTIONS - (choice.evict and choice.evicted or 0))
  return wanted <= 0 or pick(choice, groups, wanted) == wanted
end

-- Chooses a few due sessions of each group.
local function sweep(choice, groups)
  for _, group in ipairs(groups) do
    local name = choice.p .. ':t:' .. group
    for _, entry in ipairs(redis.call('ZRANGEBYSCORE', name, '-inf', choice.now, 'LIMIT', 0, SWEEP)) do
      if not choice.taken[string.sub(entry, 1, KEY)] then take(choice, entry, group, false) end
    end
  end
end

-- Returns a user's first sessions in the order of eviction, without chosen ones: MAX_EVICTIONS at most.
local function first_of(choice, user, tiers, going)
  local found = {}
  for _, tier in ipairs(tiers) do
    local page = redis.call('ZRANGE', own(choice.p, user, tier), 0, MAX_EVICTIONS + going - 1, 'WITHSCORES')
    for i = 1, #page, 2 do
      if not choice.taken[page[i]] then
        found[#found + 1] = {key = page[i], tier = tier, place = tonumber(page[i + 1])}
      end
    end
  end
  table.sort(found, function(a, b)
    return a.place < b.place or (a.place == b.place and a.key < b.key)
  end)
  return {unpack(found, 1, MAX_EVICTIONS)}
end

-- Chooses the user's own sessions over that user's cap. It reads the first MAX_EVICTIONS in the order of
-- eviction: a due one after them counts until it is removed. Returns the entries to remove, which have no
-- record; nil if there is no room and the rules refuse.
--
-- rules.per_user: nine digits; if tiers have their own numbers, also rows of '|tag' and nine digits, and
-- only sessions of the same tier count.
local function choose_own(choice, r, rules, users, leaving)
  local row = string.find(rules.per_user, '|' .. r.tier, 1, true)
  local allowed = tonumber(string.sub(rules.per_user, row and row + 5 or 1, row and row + 13 or 9))
  local tiers = #rules.per_user > 9 and {r.tier} or users
  local excess, going, counted = 1 - allowed, 0, {}
  for _, tier in ipairs(tiers) do
    counted[tier] = true
    excess = excess + redis.call('ZCARD', own(choice.p, r.user, tier))
  end
  for _, victim in ipairs(choice.victims) do
    if counted[victim[2]] and string.sub(victim[1], KEY + 1) == r.user then going = going + 1 end
  end
  if leaving and leaving.r.user == r.user and counted[leaving.r.tier] then going = going + 1 end
  excess = excess - going
  local stale, live = {}, {}
  if excess <= 0 then return stale end
  for _, listed in ipairs(first_of(choice, r.user, tiers, going)) do
    local theirs, other = parse(head(choice.p .. ':s:' .. listed.key))
    if not other and deadline(theirs) > choice.now and theirs.user == r.user then
      live[#live + 1] = listed
    elseif not other or other[1] ~= NEWER then  -- a newer version's counts, and stays
      excess = excess - 1
      if theirs and theirs.user == r.user then
        take(choice, listed.key .. r.user, listed.tier, false)
      else
        stale[#stale + 1] = listed
      end
    end
  end
  if rules.refuse and excess > 0 then return nil end
  for i = 1, math.min(#live, excess) do take(choice, live[i].key .. r.user, live[i].tier, true) end
  return stale
end

-- Returns the rules in ARGV from at on: caps for all, users and one user; evict, refuse a user's next
-- session (1 or 0 each); then the tiers of users in the order of eviction, each as tag and name.
local function read_rules(at)
  local rules = {
    total = tonumber(ARGV[at]),
    users = tonumber(ARGV[at + 1]),
    per_user = ARGV[at + 2],
    evict = ARGV[at + 3] == '1',
    refuse = ARGV[at + 4] == '1',
    order = {},
    names = {},
  }
  for i = at + 5, #ARGV, 2 do
    rules.order[#rules.order + 1] = ARGV[i]
    rules.names[ARGV[i]] = ARGV[i + 1]
  end
  return rules
end

-- Returns the groups of users that exist, in the order of eviction: tiers no longer configured first.
local function user_groups(p, rules)
  local groups, present = {}, {}
  for _, tag in ipairs(redis.call('HKEYS', p .. ':tiers')) do
    present[tag] = true
    if not rules.names[tag] then groups[#groups + 1] = tag end
  end
  for _, tag in ipairs(rules.order) do
    if present[tag] then groups[#groups + 1] = tag end
  end
  return groups, present
end

local function with_anonymous(groups)
  return {ANONYMOUS, unpack(groups)}
end

local function held(p, groups)
  local sum = 0
  for _, group in ipairs(groups) do sum = sum + redis.call('ZCARD', p .. ':t:' .. group) end
  return sum
end

-- Returns the removal note of a session (tier tag, and a letter for the reason), and the reason. Adds its
-- name to names, to be deleted, unless another program's value is there. If Redis has expired the record,
-- the tier of an anonymous session is unknown.
local function removal_note(name, names, group)
  local raw = head(name)
  if type(raw) == 'string' and string.find(raw, '^SS%d') then names[#names + 1] = name end
  local r = parse(raw)
  if not r then return (group == ANONYMOUS and '    ' or group) .. VISITOR_REASONS.idle, 'idle' end
  return r.tier .. VISITOR_REASONS[ended_by(r)], ended_by(r)
end

-- Removes the victims. Returns key and removal note of each in one string: clients are slow with long
-- arrays.
local function dismiss(choice)
  local names, entries, found = {}, {}, {}
  for i, victim in ipairs(choice.victims) do
    local entry, group, evicted = victim[1], victim[2], victim[3]
    local key, user = string.sub(entry, 1, KEY), string.sub(entry, KEY + 1)
    local note, reason = removal_note(choice.p .. ':s:' .. key, names, group)
    if evicted then note, reason = string.sub(note, 1, 4) .. VISITOR_REASONS.evicted, 'evicted' end
    if user ~= '' then redis.call('ZREM', own(choice.p, user, group), key) end
    keep_reason(choice.p, choice.now, key, user, reason)
    local ours = entries[group] or {}
    ours[#ours + 1] = entry
    entries[group] = ours
    found[i] = key .. note
  end
  in_portions('UNLINK', nil, names)
  for group, ours in pairs(entries) do in_portions('ZREM', choice.p .. ':t:' .. group, ours) end
  return table.concat(found)
end

-- Stores the session r under key, in the place of leaving if there is one.
local function admit(p, key, draft, r, now, rules, leaving)
  local choice = new_choice(p, now, rules.evict)
  if leaving then
    choice.taken[leaving.key] = true
    count(choice, leaving.r.group)
  end
  local users, present = user_groups(p, rules)
  local everybody = with_anonymous(users)
  sweep(choice, everybody)
  local users_held = held(p, users)
  local total = users_held + held(p, {ANONYMOUS})
  local stale = {}
  -- In the place of one of the same user and tier it is not one more: a lowered cap does not refuse it.
  local swap = leaving and leaving.r.user == r.user and leaving.r.tier == r.tier
  if r.user ~= '' and not swap then
    stale = choose_own(choice, r, rules, users, leaving)
    if not stale then return {TOO_MANY} end
    if not make_room(choice, users, users_held - choice.users + 1 - rules.users) then return {FULL} end
  end
  local groups = r.user == '' and {ANONYMOUS} or everybody
  local excess = swap and 0 or total - choice.total + 1 - rules.total
  if not make_room(choice, groups, excess) then return {FULL} end

  write(p, key, draft, r, now)
  if r.user ~= '' and not present[r.tier] then
    redis.call('HSET', p .. ':tiers', r.tier, rules.names[r.tier] or r.tier)
  end
  for _, gone in ipairs(stale) do redis.call('ZREM', own(p, r.user, gone.tier), gone.key) end
  return {LIVE, dated(now, header(r)), total - choice.total + 1, dismiss(choice)}
end
