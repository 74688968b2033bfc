-- KEYS: record. ARGV: draft, rules. Returns LIVE, now and header (or record), sessions held, and the
-- removed ones as dismiss() lists them.
local p, key = split(KEYS[1])
local r = parse(string.sub(ARGV[1], 1, USER_HEADER))
local now = clock()
local there = already(p, now, key, r.stamp)
if there then return there end

-- A session that comes from another shard keeps its age.
if r.created == 0 then r.created = now end
if r.last == 0 then r.last = now end
r.absolute, r.generation = r.created + r.absolute, current
return admit(p, key, ARGV[1], r, now, read_rules(2), nil)
