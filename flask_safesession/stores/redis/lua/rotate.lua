-- KEYS: old record, new record. ARGV: expected stamp or '', restart (1; 0 if not, - if it does not
-- slide either), reason, where the tombstone leads, draft, rules.
-- Returns what create does. All in one step, so that at no time both sessions are live, or neither.
-- Without an expected stamp the session is rotated wherever it is.
local p, old = split(KEYS[1])
local _, key = split(KEYS[2])
local r = parse(string.sub(ARGV[5], 1, USER_HEADER))
local now = clock()
local there = already(p, now, key, r.stamp)
if there then return there end

if ARGV[1] == '' then old = resolve(p, now, old) end
local leaving, other = find(p, now, old)
if not leaving then return other end
if ARGV[1] ~= '' and leaving.stamp ~= ARGV[1] then
  return {CONFLICT, dated(now, redis.call('GET', KEYS[1]))}
end

r.older = leaving.stamp .. string.sub(leaving.older, 1, 7)
r.created = ARGV[2] == '1' and now or leaving.created
r.last = ARGV[2] == '-' and leaving.last or now
r.absolute, r.generation = r.created + r.absolute, current
local found = admit(p, key, ARGV[5], r, now, read_rules(6), {key = old, r = leaving})
if found[1] == LIVE then
  remove(p, old, leaving)
  -- That of a sign-in is filed as the user's: a flood of anonymous tombstones does not push it out.
  leave_tombstone(p, now, old, r.user == '' and leaving.user or r.user, r.stamp, ARGV[3], ARGV[4])
end
return found
