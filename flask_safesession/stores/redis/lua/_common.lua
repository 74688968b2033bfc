-- Put before every script. Everything is local: a global would remain after the script.
--
-- A record is a string: magic and version 1-3, stamps 4-24, created 25-35, last active 36-46,
-- absolute deadline 47-57, idle allowance (plus EXTENDED) 58-67, generation 68-72, bytes of the note 73-75
-- (all of these hexadecimal), tier tag 76-79, '+' or '-' 80, of users the user tag 81-96, note, payload.
-- Keys, all in one slot:
--   {P}:s:KEY          a record
--   {P}:t:GROUP       deadline -> KEY + user tag; a group is 'anonymous' or the tier tag of users
--   {P}:u:USER TIER GENERATION   (tags and digits, without blanks) place() -> KEY
--   {P}:tiers          tier tag -> name
--   {P}:generation     five hexadecimal digits, ':', the stamp of the end_all that made it
--   {P}:e:GENERATION:GROUP      what was {P}:t:GROUP until an end_all; {P}:ending lists these names
--   {P}:tombstones:anonymous, {P}:tombstones:users, {P}:ended   tables of ended sessions: keep()
--   {P}:none           never exists
local KEY, HEADER, USER_HEADER = 18, 80, 96
local ANONYMOUS = 'anonymous'
-- The bit of the idle allowance that marks an extended session.
local EXTENDED = 2 ^ 39
local TOMBSTONE_TTL = 60000
local MAX_TOMBSTONES = 10000
local MAX_TOMBSTONES_OF_USER = 100
-- Reasons for the visitor, each with its letter in removal notes, and how long they are kept.
local VISITOR_REASONS = {idle = 'i', lifetime = 'l', evicted = 'e', revoked = 'r', replayed = 'p'}
local VISITOR_REASON_TTL = 86400000
-- Redis expires a record this much after its deadline, should no purge run.
local NET = 300000

-- The first element of every answer.
local UNKNOWN, LIVE, TOMBSTONE, DUE, FOREIGN, NEWER, CONFLICT, TAKEN, FULL = 0, 1, 2, 3, 4, 5, 6, 7, 8
local ENDED, UNSURE, TOO_MANY = 9, 10, 11

-- Records of another generation are over: end_all.lua.
local current = redis.pcall('GET', string.match(KEYS[1], '^.-}') .. ':generation')
current = type(current) == 'string' and string.sub(current, 1, 5) or '00000'

local micro = 0  -- microseconds beyond what clock() has returned

local function clock()
  local time = redis.call('TIME')
  micro = tonumber(time[2]) % 1000
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- At maxmemory, Redis refuses a script whose first write may need memory. After a write that needs none,
-- it allows all.
local function go_on_at_maxmemory(p)
  redis.call('UNLINK', p .. ':none')
end

local function split(key)
  return string.sub(key, 1, -4 - KEY), string.sub(key, -KEY)
end

-- Returns whether an answer of redis.pcall is the error for a key of another type.
local function wrong_type(answer)
  return type(answer) == 'table' and answer.err and string.find(answer.err, 'WRONGTYPE', 1, true)
end

-- Returns the record in raw bytes (or a head of them); or nil and the answer to give.
local function parse(raw)
  if wrong_type(raw) then return nil, {FOREIGN} end
  if type(raw) == 'table' then return nil, raw end
  if not raw or raw == '' then return nil, {UNKNOWN} end
  if string.sub(raw, 1, 3) ~= 'SS1' then
    return nil, {string.find(raw, '^SS[2-9]') and NEWER or FOREIGN}
  end
  local kind = string.sub(raw, 80, 80)
  local whole = kind == '-' or (kind == '+' and #raw >= USER_HEADER)
  if not whole or not string.find(string.sub(raw, 25, 75), '^%x+$') then return nil, {FOREIGN} end
  local r = {
    stamp = string.sub(raw, 4, 10),
    older = string.sub(raw, 11, 24),
    created = tonumber(string.sub(raw, 25, 35), 16),
    last = tonumber(string.sub(raw, 36, 46), 16),
    absolute = tonumber(string.sub(raw, 47, 57), 16),
    idle = tonumber(string.sub(raw, 58, 67), 16),
    generation = string.sub(raw, 68, 72),
    note = string.sub(raw, 73, 75),
    tier = string.sub(raw, 76, 79),
    user = kind == '+' and string.sub(raw, 81, USER_HEADER) or '',
  }
  r.group = kind == '-' and ANONYMOUS or r.tier
  r.extended = r.idle >= EXTENDED
  r.idle = r.idle % EXTENDED
  return r
end

local function head(name)
  return redis.pcall('GETRANGE', name, 0, USER_HEADER - 1)
end

local function deadline(r)
  if r.generation ~= current then return 0 end
  return math.min(r.absolute, r.last + r.idle)
end

local function ended_by(r)
  if r.generation ~= current then return 'revoked' end
  return r.absolute <= r.last + r.idle and 'lifetime' or 'idle'
end

local function written_by(r, stamp)
  return r.stamp == stamp or string.sub(r.older, 1, 7) == stamp or string.sub(r.older, 8) == stamp
end

-- Records a use: once per touch interval, and the first after the creation always. Returns whether it did.
local function touched(r, now, touch)
  if not touch or (r.last > r.created and now - r.last < touch) then return false end
  local before = r.last
  r.last = math.max(now, r.last)
  return r.last ~= before
end

-- Returns where the limits of a record begin in rows of limits (load.lua), or nil: the default's hold.
local function row_of(limits, r)
  local own = r.extended and string.find(limits, '+' .. r.tier, 1, true)
  return own or string.find(limits, '|' .. r.tier, 1, true)
end

-- -- the bytes --------------------------------------------------------------------------------

local function times(r)
  local idle = r.extended and r.idle + EXTENDED or r.idle
  return string.format('%011x%011x%011x%010x', r.created, r.last, r.absolute, idle)
end

-- Returns what can be patched in place: the bytes before the length of the note.
local function front(r)
  return 'SS1' .. r.stamp .. r.older .. times(r) .. r.generation
end

local function header(r)
  return front(r) .. r.note .. r.tier .. (r.user == '' and '-' or '+' .. r.user)
end

-- Returns now and a record, or its header, in one string.
local function dated(now, raw)
  return string.format('%011x', now) .. raw
end

-- -- the indexes ------------------------------------------------------------------------------

local function member(key, r)
  return key .. r.user
end

-- Returns the name of the index of a user's sessions of a tier.
local function own(p, user, tier, generation)
  return p .. ':u:' .. user .. tier .. (generation or current)
end

-- Returns the place in the order in which a user's sessions are evicted: first those whose cookie never
-- came back, by age; then by last use. In microseconds, to order sessions of one millisecond.
local function place(r)
  return r.last > r.created and 2 ^ 52 + r.last * 1000 or r.created * 1000
end

local function index(p, key, r)
  redis.call('ZADD', p .. ':t:' .. r.group, deadline(r), member(key, r))
end

local function index_user(p, key, r)
  if r.user ~= '' then redis.call('ZADD', own(p, r.user, r.tier), place(r) + micro, key) end
end

local function unindex(p, key, r)
  redis.call('ZREM', p .. ':t:' .. r.group, member(key, r))
  if r.user ~= '' then redis.call('ZREM', own(p, r.user, r.tier, r.generation), key) end
end

-- UNLINK comes first: it needs no memory, so Redis does not refuse the script at maxmemory.
local function remove(p, key, r)
  redis.call('UNLINK', p .. ':s:' .. key)
  unindex(p, key, r)
end

local function ttl(r, now)
  return math.max(1, deadline(r) - now + NET)
end

-- Writes a draft as the record r. SET comes first: at maxmemory the script fails before it has written.
-- The head is patched in place: a concatenation would copy the payload.
local function write(p, key, draft, r, now)
  local name = p .. ':s:' .. key
  redis.call('SET', name, draft, 'PX', ttl(r, now))
  redis.call('SETRANGE', name, 0, front(r))
  index(p, key, r)
  index_user(p, key, r)
end

-- Runs a command over many keys or members, in portions: unpack has a limit.
local function in_portions(command, key, items)
  for from = 1, #items, 500 do
    local to = math.min(from + 499, #items)
    if key then
      redis.call(command, key, unpack(items, from, to))
    else
      redis.call(command, unpack(items, from, to))
    end
  end
end

-- -- ended sessions ---------------------------------------------------------------------------

-- A table of ended sessions has three keys: name (time -> KEY + user tag), name:keys (KEY -> user tag,
-- '|', value) and name:users (user tag, time, KEY, in lexical order).

-- Removes pairs of entry and time from a table.
local function drop(name, pairs_of)
  for i = 1, #pairs_of, 2 do
    local entry = pairs_of[i]
    local key, user = string.sub(entry, 1, KEY), string.sub(entry, KEY + 1)
    redis.call('ZREM', name, entry)
    redis.call('HDEL', name .. ':keys', key)
    if user ~= '' then
      redis.call('ZREM', name .. ':users', user .. string.format('%011x', pairs_of[i + 1]) .. key)
    end
  end
end

-- Removes up to limit entries that are older than kept_for.
local function forget(name, kept_for, now, limit)
  drop(name, redis.call('ZRANGEBYSCORE', name, '-inf', now - kept_for, 'WITHSCORES', 'LIMIT', 0, limit))
end

-- Adds a value; over a limit, the oldest of the user or of all are removed. Each call removes up to three
-- old ones, so the table shrinks.
local function keep(name, kept_for, now, key, user, value)
  forget(name, kept_for, now, 3)
  local before = redis.call('ZSCORE', name, key .. user)
  if before then drop(name, {key .. user, before}) end
  redis.call('HSET', name .. ':keys', key, user .. '|' .. value)
  redis.call('ZADD', name, now, key .. user)
  if user ~= '' then
    local users = name .. ':users'
    redis.call('ZADD', users, 0, user .. string.format('%011x', now) .. key)
    local over = redis.call('ZLEXCOUNT', users, '[' .. user, '[' .. user .. '~') - MAX_TOMBSTONES_OF_USER
    if over > 0 then
      local oldest = redis.call('ZRANGEBYLEX', users, '[' .. user, '[' .. user .. '~', 'LIMIT', 0, over)
      for _, found in ipairs(oldest) do
        drop(name, {string.sub(found, -KEY) .. user, tonumber(string.sub(found, 17, 27), 16)})
      end
    end
  end
  local over = redis.call('ZCARD', name) - MAX_TOMBSTONES
  if over > 0 then drop(name, redis.call('ZRANGE', name, 0, over - 1, 'WITHSCORES')) end
end

-- Returns the value of key in a table, or nil.
local function kept(name, kept_for, now, key)
  local user, value = string.match(redis.call('HGET', name .. ':keys', key) or '', '^(.-)|(.*)$')
  if not user then return nil end
  local time = tonumber(redis.call('ZSCORE', name, key .. user) or 0)
  return time > now - kept_for and value or nil
end

-- Leaves a tombstone of a user's or an anonymous session. goes_on: nil, or the key under which the session
-- goes on, its user tag, and '1' if a sign-in brought it there, all in one string.
local function leave_tombstone(p, now, key, user, stamp, reason, goes_on)
  local name = p .. ':tombstones:' .. (user == '' and ANONYMOUS or 'users')
  keep(name, TOMBSTONE_TTL, now, key, user, stamp .. reason .. '|' .. (goes_on or ''))
end

local function tombstone(p, now, key)
  local value = kept(p .. ':tombstones:users', TOMBSTONE_TTL, now, key)
    or kept(p .. ':tombstones:' .. ANONYMOUS, TOMBSTONE_TTL, now, key)
  -- Another program may have written something else there.
  local head, goes_on = string.match(value or '', '^([%w_-]+)|([%w_-]*)$')
  if not head then return nil end
  return {
    stamp = string.sub(head, 1, 7),
    reason = string.sub(head, 8),
    goes_on = goes_on,
    successor = string.sub(goes_on, 1, KEY),
    user = string.sub(goes_on, KEY + 2),
    sign_in = string.sub(goes_on, KEY + 1, KEY + 1) == '1',
  }
end

-- Keeps the reason for the visitor of a user's session beyond its tombstone; of anonymous sessions, none.
local function keep_reason(p, now, key, user, reason)
  if user ~= '' and VISITOR_REASONS[reason] then keep(p .. ':ended', VISITOR_REASON_TTL, now, key, user, reason) end
end

-- Removes the session and leaves a tombstone, which hides why an anonymous session ended.
local function finish(p, now, key, r, stamp, reason, goes_on, owner)
  remove(p, key, r)
  keep_reason(p, now, key, r.user, reason)
  if r.user == '' and VISITOR_REASONS[reason] then reason = 'ended' end
  leave_tombstone(p, now, key, owner or r.user, stamp, reason, goes_on)
end

-- Returns the answer to give where there is no record.
local function no_record(p, now, key, other)
  if other[1] ~= UNKNOWN then return other end
  local found = tombstone(p, now, key)
  if found then return {TOMBSTONE, found.reason, found.stamp, found.successor, found.user} end
  local reason = kept(p .. ':ended', VISITOR_REASON_TTL, now, key)
  return VISITOR_REASONS[reason] and {ENDED, reason} or {UNKNOWN}
end

local function due(p, now, key, r)
  remove(p, key, r)
  keep_reason(p, now, key, r.user, ended_by(r))
  return {DUE, ended_by(r), r.tier, r.user == '' and 0 or 1}
end

-- Returns the key under which the session goes on, but not after a sign-in: a logout also ends a session
-- that was rotated meanwhile. The caller follows it into other shards.
local function resolve(p, now, key)
  for _ = 1, MAX_TOMBSTONES do
    local found = redis.call('EXISTS', p .. ':s:' .. key) == 0 and tombstone(p, now, key)
    if not found or found.successor == '' or found.sign_in then break end
    key = found.successor
  end
  return key
end

-- Returns the live session under key; or nil and the answer to give.
local function find(p, now, key)
  local r, other = parse(head(p .. ':s:' .. key))
  if not r then return nil, no_record(p, now, key, other) end
  if deadline(r) <= now then return nil, due(p, now, key, r) end
  return r
end

-- Returns the answer to a creation under a key that is not free, or nil. A repeated call finds its own
-- stamp; it writes all the same, as in end.lua.
local function already(p, now, key, stamp)
  local name = p .. ':s:' .. key
  local raw = redis.pcall('GET', name)
  local r = parse(raw)
  if r and written_by(r, stamp) then
    redis.call('PEXPIRE', name, ttl(r, now))
    return {LIVE, dated(now, raw), 0, ''}
  end
  return (raw or tombstone(p, now, key)) and {TAKEN} or nil
end
