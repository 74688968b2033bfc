-- Put before every script. Everything is local: a global would outlive the script.
--
-- A record is a string: magic and version 1-3, stamps 4-24, created 25-35, last active 36-46,
-- absolute deadline 47-57, idle allowance 58-67 (hexadecimal), tier tag 68-71, '+' or '-' 72, of users
-- the user tag 73-88, payload.
-- A tombstone is 'SST', the stamp of the call that left it, and the reason; behind 'rotated' stands
-- the key under which the session goes on, unless a login made it another one; behind 'renewed', too,
-- and then until when the old key is as good (11 hexadecimal digits).
-- Keys, all in one slot: {P}:s:KEY a record or tombstone, {P}:t:BUCKET (deadline -> KEY + user tag),
-- {P}:u:USER (created -> KEY), {P}:tiers (tag -> name), {P}:ended how users' sessions have ended
-- (8 * time + reason -> KEY), {P}:revoked until when all were ended at once, {P}:ending the names of
-- the indexes that were in use then. {P}:none never exists.
local HEADER, KEY = 88, 18
local ANONYMOUS = 'anonymous'
local TOMBSTONE_TTL = 60000
-- How long the ends of users' sessions are told.
local TOLD = 86400000
local REASONS = {'idle', 'lifetime', 'evicted', 'revoked', 'replayed'}
local CODES = {idle = 1, lifetime = 2, evicted = 3, revoked = 4, replayed = 5}
-- Redis' own expiry is a net under the purge, this much later.
local NET = 300000

-- The first element of every answer.
local UNKNOWN, LIVE, BURIED, DUE, FOREIGN, NEWER, CONFLICT, TAKEN, FULL = 0, 1, 2, 3, 4, 5, 6, 7, 8
local ENDED, UNSURE, TOO_MANY = 9, 10, 11

-- Sessions that were made up to this moment are over: end_all.lua.
local revoked = redis.pcall('GET', string.match(KEYS[1], '^.-}') .. ':revoked')
revoked = type(revoked) == 'string' and tonumber(string.match(revoked, '^%d+')) or 0

local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- At maxmemory a script's first write is refused if it may need memory; after one that needs none, all
-- are let through.
local function go_on_at_maxmemory(p)
  redis.call('UNLINK', p .. ':none')
end

local function split(key)
  return string.sub(key, 1, -4 - KEY), string.sub(key, -KEY)
end

-- Whether an answer of redis.pcall is the error that a key of another type gives.
local function wrong_type(answer)
  return type(answer) == 'table' and answer.err and string.find(answer.err, 'WRONGTYPE', 1, true)
end

-- The record in raw bytes (or a head of them), or nil and the answer to give.
local function parse(raw)
  if wrong_type(raw) then return nil, {FOREIGN} end
  if type(raw) == 'table' then return nil, raw end
  if not raw or raw == '' then return nil, {UNKNOWN} end
  local magic = string.sub(raw, 1, 3)
  if magic == 'SST' and #raw < 64 and string.find(raw, '^[%w_-]+$') then
    local reason, successor, good = string.sub(raw, 11), '', 0
    if #reason == 7 + KEY and string.sub(reason, 1, 7) == 'rotated' then
      reason, successor = 'rotated', string.sub(reason, 8)
    elseif #reason == 18 + KEY and string.sub(reason, 1, 7) == 'renewed' then
      good = tonumber(string.sub(reason, -11), 16) or 0
      reason, successor = 'renewed', string.sub(reason, 8, 7 + KEY)
    end
    return nil, {BURIED, reason, string.sub(raw, 4, 10), successor, good}
  end
  if magic ~= 'SS1' then
    return nil, {string.find(magic, '^SS[2-9]') and NEWER or FOREIGN}
  end
  local kind = string.sub(raw, 72, 72)
  local whole = kind == '-' or (kind == '+' and #raw >= HEADER)
  if not whole or not string.find(string.sub(raw, 25, 67), '^%x+$') then return nil, {FOREIGN} end
  local r = {
    stamp = string.sub(raw, 4, 10),
    older = string.sub(raw, 11, 24),
    created = tonumber(string.sub(raw, 25, 35), 16),
    last = tonumber(string.sub(raw, 36, 46), 16),
    absolute = tonumber(string.sub(raw, 47, 57), 16),
    idle = tonumber(string.sub(raw, 58, 67), 16),
    tier = string.sub(raw, 68, 71),
    user = kind == '+' and string.sub(raw, 73, HEADER) or '',
  }
  r.bucket = kind == '-' and ANONYMOUS or r.tier
  return r
end

local function head(key)
  return redis.pcall('GETRANGE', key, 0, HEADER - 1)
end

local function deadline(r)
  if r.created <= revoked then return 0 end  -- over, also where the mark is ahead of the clock
  return math.min(r.absolute, r.last + r.idle)
end

local function ended_by(r)
  if r.created <= revoked and revoked < math.min(r.absolute, r.last + r.idle) then return 'revoked' end
  return r.absolute <= r.last + r.idle and 'lifetime' or 'idle'
end

local function written_by(r, stamp)
  return r.stamp == stamp or string.sub(r.older, 1, 7) == stamp or string.sub(r.older, 8) == stamp
end

local function member(key, r)
  return key .. r.user
end

local function unindex(p, key, r)
  redis.call('ZREM', p .. ':t:' .. r.bucket, member(key, r))
  if r.user ~= '' then redis.call('ZREM', p .. ':u:' .. r.user, key) end
end

-- UNLINK comes first: it needs no memory, so that the script is not refused at maxmemory.
local function remove(p, key, r)
  redis.call('UNLINK', p .. ':s:' .. key)
  unindex(p, key, r)
end

-- How a user's session has ended is remembered beyond its tombstone; of strangers' nothing is.
local function remember(p, key, r, reason)
  if r.user ~= '' then redis.call('ZADD', p .. ':ended', clock() * 8 + CODES[reason], key) end
end

-- What to answer where there is no record.
local function no_record(p, key, other)
  if other[1] ~= UNKNOWN then return other end
  local told = tonumber(redis.call('ZSCORE', p .. ':ended', key) or '0')
  if told / 8 > clock() - TOLD then return {ENDED, REASONS[told % 8]} end
  return other
end

local function due(p, key, r)
  remove(p, key, r)
  remember(p, key, r, ended_by(r))
  return {DUE, ended_by(r), r.tier, r.user == '' and 0 or 1}
end

local function bury(p, key, stamp, reason, ttl)
  redis.call('SET', p .. ':s:' .. key, 'SST' .. stamp .. reason, 'PX', ttl or TOMBSTONE_TTL)
end

-- A command over many keys or members; unpack has a limit.
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

local function times(r)
  return string.format('%011x%011x%011x%010x', r.created, r.last, r.absolute, r.idle)
end

-- Writes a draft as the record r. SET comes first: at maxmemory the script fails whole. The payload
-- is not concatenated here; the head is patched in place.
local function write(p, key, draft, r, now)
  local name = p .. ':s:' .. key
  redis.call('SET', name, draft, 'PX', math.max(1, deadline(r) - now + NET))
  redis.call('SETRANGE', name, 3, r.stamp .. r.older .. times(r))
  redis.call('ZADD', p .. ':t:' .. r.bucket, deadline(r), member(key, r))
end

local function answer(now, r)
  return {LIVE, now, 'SS1' .. r.stamp .. r.older .. times(r) .. r.tier
    .. (r.user == '' and '-' or '+' .. r.user)}
end

-- Key and record of the session under key, or nil and the answer. Without an expected stamp, wherever
-- it is now: rotations without a login are followed to where it goes on, so that a logout is never
-- outrun by one. With a link, only those that were left for this reason. What goes on in another shard
-- is followed by the caller, who is told the key. A chain is as long as lifetime and renewals make it.
local function locate(p, key, expected, link)
  local r, other = parse(head(p .. ':s:' .. key))
  for _ = 1, 10000 do
    if r or expected ~= '' or other[1] ~= BURIED or other[4] == '' then break end
    if link and other[2] ~= link then break end
    local there, answer = parse(head(p .. ':s:' .. other[4]))
    if not there and answer[1] == UNKNOWN then break end  -- it may be in another shard
    key, r, other = other[4], there, answer
  end
  return key, r, other
end

-- An old ID came back after its time: somebody else has it. The session is ended where it goes on.
local function replayed(p, key, stamp)
  local now, where, r, other = clock(), locate(p, key, '')
  if r and deadline(r) <= now then return due(p, where, r) end
  -- It is over already, or it goes on in another shard: its end is the caller's.
  if not r and other[1] == BURIED and other[4] ~= '' then return {BURIED, 'replayed', stamp, other[4]} end
  if not r then return no_record(p, where, other) end
  -- Of strangers' sessions nobody is told why they ended.
  local reason = r.user == '' and 'ended' or 'replayed'
  redis.call('UNLINK', p .. ':none')
  bury(p, key, stamp, reason)
  remove(p, where, r)
  bury(p, where, stamp, reason)
  remember(p, where, r, 'replayed')
  return {BURIED, reason, stamp, '', 0, where, r.tier}
end
