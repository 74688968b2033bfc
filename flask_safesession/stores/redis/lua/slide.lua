-- The second part of load.lua, after the common functions: for what is due, slides, comes under shorter
-- limits or has no record. It uses raw, way and unsure of the first part.
local p, key = split(KEYS[1])
local r, other = parse(raw)
local now = clock()

-- A master that takes no writes (its memory or disk is full, its replicas are gone) can still be read. A
-- former master's error is returned, so that the caller turns to the current one. While a cluster moves the
-- slot, other keys may be on the other node: the record is read, and nothing is written.
local writes = way ~= '-'
if writes then
  local refused = redis.pcall('UNLINK', p .. ':none')
  if type(refused) == 'table' and refused.err then
    for _, passing in ipairs({'OOM', 'MISCONF', 'NOREPLICAS'}) do
      writes = writes and not string.find(refused.err, passing, 1, true)
    end
    if writes then return refused end
  end
end
if not r then return way == '-' and other or no_record(p, now, key, other) end

local row = row_of(ARGV[1], r) or 2
local idle = tonumber(string.sub(ARGV[1], row + 5, row + 16))
local lifetime = tonumber(string.sub(ARGV[1], row + 17, row + 28))
local touch = way == '1' and tonumber(string.sub(ARGV[1], row + 29, row + 40))

-- A load shortens limits, never extends them.
local changed = r.created + lifetime < r.absolute or idle < r.idle
r.absolute = math.min(r.absolute, r.created + lifetime)
r.idle = math.min(r.idle, idle)
if unsure then current = r.generation end
if deadline(r) <= now then
  if writes then return due(p, now, key, r) end
  return r.user == '' and {UNKNOWN} or {ENDED, ended_by(r)}
end
local used = touched(r, now, touch)
if writes and (changed or used) then
  redis.call('PEXPIRE', KEYS[1], ttl(r, now))
  redis.call('SETRANGE', KEYS[1], 24, times(r))
  index(p, key, r)
  if used then index_user(p, key, r) end
end
local found = dated(now, string.sub(raw, 1, 24) .. times(r) .. string.sub(raw, 68))
return unsure and {UNSURE, found} or found
