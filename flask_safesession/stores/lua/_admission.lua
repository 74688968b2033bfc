-- Put before the scripts that admit a session. Chooses who has to go for it: reads only, so that a
-- refusal leaves everything as it was. Twin of _Choice in memory.py.
local SWEEP = 3
local MAX_EVICTIONS = 16

local function new_choice(p, now, evict)
  return {p = p, now = now, evict = evict, victims = {}, taken = {}, total = 0, users = 0}
end

local function count(choice, bucket)
  choice.total = choice.total + 1
  if bucket ~= ANONYMOUS then choice.users = choice.users + 1 end
end

local function take(choice, entry, bucket, evicted)
  choice.taken[string.sub(entry, 1, KEY)] = true
  choice.victims[#choice.victims + 1] = {entry, bucket, evicted}
  count(choice, bucket)
end

-- Takes up to wanted sessions of these buckets in order, those nearest their end first.
local function pick(choice, buckets, wanted)
  local found = 0
  for _, bucket in ipairs(buckets) do
    local at, more = 0, true
    while more and found < wanted do
      local entries = redis.call('ZRANGE', choice.p .. ':t:' .. bucket, at, at + wanted, 'WITHSCORES')
      more = #entries > 0
      at = at + #entries / 2
      for i = 1, #entries, 2 do
        local evicted = tonumber(entries[i + 1]) > choice.now
        more = more and found < wanted and (choice.evict or not evicted)
        if more and not choice.taken[string.sub(entries[i], 1, KEY)] then
          take(choice, entries[i], bucket, evicted)
          found = found + 1
        end
      end
    end
  end
  return found
end

local function make_room(choice, buckets, excess)
  local wanted = math.min(excess, MAX_EVICTIONS)
  return excess <= 0 or pick(choice, buckets, wanted) == wanted
end

-- A few due sessions of each of these buckets.
local function sweep(choice, buckets)
  for _, bucket in ipairs(buckets) do
    local name = choice.p .. ':t:' .. bucket
    for _, entry in ipairs(redis.call('ZRANGEBYSCORE', name, '-inf', choice.now, 'LIMIT', 0, SWEEP)) do
      if not choice.taken[string.sub(entry, 1, KEY)] then take(choice, entry, bucket, false) end
    end
  end
end

-- A user at the user's own cap: what is due of theirs, then their oldest. Entries of the user's set
-- that no record stands behind are no sessions: they are returned, to be removed.
--
-- How many a user may have: nine digits, then rows of '|tag' and nine digits, if each tier has its own
-- number; then only sessions of one tier count. Answers nil where there is no room and none is made.
local function choose_own(choice, r, rules)
  local row = string.find(rules.per_user, '|' .. r.tier, 1, true)
  local allowed = tonumber(string.sub(rules.per_user, row and row + 5 or 1, row and row + 13 or 9))
  local by_tier = #rules.per_user > 9
  local own, live, stale = {}, {}, {}
  for _, key in ipairs(redis.call('ZRANGE', choice.p .. ':u:' .. r.user, 0, -1)) do
    if not choice.taken[key] then own[#own + 1] = key end
  end
  if #own < allowed then return stale end
  for _, key in ipairs(own) do
    local theirs, other = parse(head(choice.p .. ':s:' .. key))
    if other and other[1] == NEWER then
      allowed = allowed - 1  -- it counts, and is left to those who can use it
    elseif not theirs or theirs.user ~= r.user or theirs.created <= revoked then
      stale[#stale + 1] = key
    elseif deadline(theirs) <= choice.now then
      take(choice, key .. r.user, theirs.bucket, false)
    elseif not by_tier or theirs.tier == r.tier then
      live[#live + 1] = {key .. r.user, theirs.bucket}
    end
  end
  if rules.refuse and #live + 1 > allowed then return nil end
  for i = 1, math.min(#live, #live + 1 - allowed) do take(choice, live[i][1], live[i][2], true) end
  return stale
end

-- The rules in ARGV from at on: caps for all, users and one user, evict (1 or 0), refuse a user's next
-- (1 or 0), then the tiers of users in the order of eviction, each as tag and name.
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

-- The buckets of users that exist, in the order of eviction: tiers no longer configured first.
local function user_buckets(p, rules)
  local buckets, present = {}, {}
  for _, tag in ipairs(redis.call('HKEYS', p .. ':tiers')) do
    present[tag] = true
    if not rules.names[tag] then buckets[#buckets + 1] = tag end
  end
  for _, tag in ipairs(rules.order) do
    if present[tag] then buckets[#buckets + 1] = tag end
  end
  return buckets, present
end

local function with_anonymous(buckets)
  return {ANONYMOUS, unpack(buckets)}
end

local function held(p, buckets)
  local sum = 0
  for _, bucket in ipairs(buckets) do sum = sum + redis.call('ZCARD', p .. ':t:' .. bucket) end
  return sum
end

-- What is told of a session that goes: its tier tag and a letter for the reason. Its name is added to
-- those to be deleted. What stands under it and is no record (a tombstone, somebody else's value) is
-- left alone.
local function obituary(name, names)
  local raw = head(name)
  if type(raw) ~= 'string' or not string.find(raw, '^SS%d') then return '    i' end
  names[#names + 1] = name
  local last, idle = tonumber(string.sub(raw, 36, 46), 16), tonumber(string.sub(raw, 58, 67), 16)
  local absolute = tonumber(string.sub(raw, 47, 57), 16)
  if #raw < 72 or not (last and idle and absolute) then return '    i' end
  if tonumber(string.sub(raw, 25, 35), 16) <= revoked then return string.sub(raw, 68, 71) .. 'r' end
  return string.sub(raw, 68, 71) .. (absolute <= last + idle and 'l' or 'i')
end

local LETTERS_OF = {i = 1, l = 2, e = 3, r = 4}

-- Adds to scores how a user's session ended, as remember() does: many at once.
local function note(scores, now, key, told)
  scores[#scores + 1] = now * 8 + LETTERS_OF[string.sub(told, -1)]
  scores[#scores + 1] = key
end

-- Removes the victims and lists them: key, tier tag and a letter for the reason, one behind the other
-- in one string, since clients take long over long arrays.
local function dismiss(choice)
  local names, entries, found, scores = {}, {}, {}, {}
  for i, victim in ipairs(choice.victims) do
    local entry, bucket, evicted = victim[1], victim[2], victim[3]
    local key, user = string.sub(entry, 1, KEY), string.sub(entry, KEY + 1)
    local told = obituary(choice.p .. ':s:' .. key, names)
    if evicted then told = string.sub(told, 1, 4) .. 'e' end
    if user ~= '' then
      redis.call('ZREM', choice.p .. ':u:' .. user, key)
      note(scores, choice.now, key, told)
    end
    local ours = entries[bucket] or {}
    ours[#ours + 1] = entry
    entries[bucket] = ours
    found[i] = key .. told
  end
  in_portions('ZADD', choice.p .. ':ended', scores)
  in_portions('UNLINK', nil, names)
  for bucket, ours in pairs(entries) do in_portions('ZREM', choice.p .. ':t:' .. bucket, ours) end
  return table.concat(found)
end

-- Stores the session r under key; leaving, if any, is the one that it takes the place of.
local function admit(p, key, draft, r, now, rules, leaving)
  local choice = new_choice(p, now, rules.evict)
  if leaving then
    choice.taken[leaving.key] = true
    count(choice, leaving.r.bucket)
  end
  local users, present = user_buckets(p, rules)
  local everybody = with_anonymous(users)
  sweep(choice, everybody)
  local users_held = held(p, users)
  local total = users_held + held(p, {ANONYMOUS})
  local stale = {}
  -- What takes the place of its like is not one more: no cap that was lowered stands in its way.
  local swap = leaving and leaving.r.user == r.user and leaving.r.tier == r.tier
  if r.user ~= '' and not swap then
    stale = choose_own(choice, r, rules)
    if not stale then return {TOO_MANY} end
    if not make_room(choice, users, users_held - choice.users + 1 - rules.users) then return {FULL} end
  end
  local buckets = r.user == '' and {ANONYMOUS} or everybody
  local excess = swap and 0 or total - choice.total + 1 - rules.total
  if not make_room(choice, buckets, excess) then return {FULL} end

  write(p, key, draft, r, now)
  if r.user ~= '' then
    redis.call('ZADD', p .. ':u:' .. r.user, r.created, key)
    if not present[r.tier] then redis.call('HSET', p .. ':tiers', r.tier, rules.names[r.tier]) end
    for _, gone in ipairs(stale) do redis.call('ZREM', p .. ':u:' .. r.user, gone) end
  end
  local found = answer(now, r)
  found[4] = total - choice.total + 1
  found[5] = dismiss(choice)
  return found
end
