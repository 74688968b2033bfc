-- KEYS: record. ARGV: draft, rules. Answers LIVE, now, head, sessions held, and those who had to go as
-- dismiss() lists them.
local p, key = split(KEYS[1])
local r = parse(string.sub(ARGV[1], 1, HEADER))
local stored = parse(head(KEYS[1]))
local now = clock()
if stored and written_by(stored, r.stamp) then
  local found = answer(now, stored)
  found[4], found[5] = 0, ''
  return found
end
if redis.call('EXISTS', KEYS[1]) == 1 then return {TAKEN} end

-- A session that comes from another shard keeps its age.
if r.created == 0 then r.created = math.max(now, revoked + 1) end
if r.last == 0 then r.last = now end
r.absolute = r.created + r.absolute
return admit(p, key, ARGV[1], r, now, read_rules(2), nil)
