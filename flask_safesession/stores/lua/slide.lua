-- The second part of load.lua, after the common functions: what is due, to be slid, to be put under
-- shorter limits, or no record at all. Has raw of the first part.
local p, key = split(KEYS[1])
local r, other = parse(raw)
-- While a cluster moves the slot to another node, what else is needed may be on the other one: the
-- record is read, and nothing is written.
local reads = string.sub(ARGV[1], 1, 1) == '-'
local name = KEYS[1]
local renewed = not r and other[2] == 'renewed' and other[4] ~= ''
if renewed and reads and clock() > other[5] then return {UNKNOWN} end
if renewed and not reads then
  if clock() > other[5] then return replayed(p, key, other[3]) end
  key, r, other = locate(p, key, '', 'renewed')
  if r then
    name = p .. ':s:' .. key
    raw = redis.call('GET', name)
  end
end
if not r then return reads and other or no_record(p, key, other) end

local row = string.find(ARGV[1], '|' .. r.tier, 1, true) or 2
local idle = tonumber(string.sub(ARGV[1], row + 5, row + 16))
local lifetime = tonumber(string.sub(ARGV[1], row + 17, row + 28))
local touch = tonumber(string.sub(ARGV[1], row + 29, row + 40))
local now = clock()

-- A load shortens limits, never extends them.
local changed = r.created + lifetime < r.absolute or idle < r.idle
r.absolute = math.min(r.absolute, r.created + lifetime)
r.idle = math.min(r.idle, idle)
if deadline(r) <= now then return reads and {UNKNOWN} or due(p, key, r) end

if string.sub(ARGV[1], 1, 1) == '1' and now - r.last >= touch then
  r.last = now
  changed = true
end
-- PEXPIRE comes first: it needs no memory, so that reads and slides go on at maxmemory.
if changed and not reads then
  local refused = redis.pcall('PEXPIRE', name, deadline(r) - now + NET)
  if type(refused) == 'table' and refused.err then
    -- A master that takes no writes (its disk is full, its replicas are gone) can still be read. One
    -- that is no master any more must not be.
    local passing = string.find(refused.err, 'MISCONF', 1, true)
      or string.find(refused.err, 'NOREPLICAS', 1, true)
    if not passing then return refused end
    return {LIVE, now, string.sub(raw, 1, r.user == '' and 72 or HEADER), raw, key}
  end
  redis.call('SETRANGE', name, 24, times(r))
  redis.call('ZADD', p .. ':t:' .. r.bucket, deadline(r), member(key, r))
end
local found = answer(now, r)
found[4], found[5] = raw, key
if unsure then found[1] = UNSURE end
return found
