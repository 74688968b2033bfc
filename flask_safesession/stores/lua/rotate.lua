-- KEYS: old record, new record. ARGV: expected stamp or '', restart (1; 0 if not, - if it does not
-- slide either), reason, milliseconds for which the old ID stays as good, draft, rules.
-- Answers as create does. Everything in one step: there is never a moment with both or neither.
-- Without an expected stamp the session is taken from wherever it is.
local p, old = split(KEYS[1])
local _, key = split(KEYS[2])
local r = parse(string.sub(ARGV[5], 1, HEADER))
local now = clock()
local stored = parse(head(KEYS[2]))
if stored and written_by(stored, r.stamp) then
  -- This very call has been here before. As in end.lua, it writes all the same.
  redis.call('PEXPIRE', KEYS[2], math.max(1, deadline(stored) - now + NET))
  local found = answer(now, stored)
  found[4], found[5] = 0, ''
  return found
end
if redis.call('EXISTS', KEYS[2]) == 1 then return {TAKEN} end

local leaving, other
old, leaving, other = locate(p, old, ARGV[1])
if not leaving then return no_record(p, old, other) end
if deadline(leaving) <= now then return due(p, old, leaving) end
if ARGV[1] ~= '' and leaving.stamp ~= ARGV[1] then return {CONFLICT, redis.call('GET', KEYS[1])} end

r.older = leaving.stamp .. string.sub(leaving.older, 1, 7)
r.created = ARGV[2] == '1' and math.max(now, revoked + 1) or leaving.created
r.last = ARGV[2] == '-' and leaving.last or now
r.absolute = r.created + r.absolute
local found = admit(p, key, ARGV[5], r, now, read_rules(6), {key = old, r = leaving})
if found[1] == LIVE then
  unindex(p, old, leaving)
  if ARGV[3] == 'renewed' then
    local good = string.format('%011x', now + tonumber(ARGV[4]))
    bury(p, old, r.stamp, 'renewed' .. key .. good, math.max(TOMBSTONE_TTL, r.absolute - now))
  else
    bury(p, old, r.stamp, ARGV[3] .. (ARGV[3] == 'rotated' and ARGV[2] ~= '1' and key or ''))
  end
end
return found
