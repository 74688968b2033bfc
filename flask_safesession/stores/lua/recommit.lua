-- The second part of commit.lua, after the common functions: what is repeated, changed, due or gone.
-- Has raw of the first part.
local p, key = split(KEYS[1])
local r, other = parse(raw)
if not r then return no_record(p, key, other) end

local now = clock()
local draft = parse(string.sub(ARGV[3], 1, HEADER))
if r.stamp == draft.stamp then return answer(now, r) end
if deadline(r) <= now then return due(p, key, r) end
-- Somebody else's write came after what was loaded; or after this very one, whose reply was lost: to
-- merge it once more does no harm.
return {CONFLICT, redis.call('GET', KEYS[1])}
