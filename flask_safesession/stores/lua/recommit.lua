-- The second part of commit.lua, after the common functions: what is repeated, changed, due or gone.
-- Has raw of the first part.
local p, key = split(KEYS[1])
local r, other = parse(raw)
if not r then return other end

local now = clock()
local draft = parse(string.sub(ARGV[3], 1, HEADER))
if written_by(r, draft.stamp) then return answer(now, r) end
if deadline(r) <= now then return due(p, key, r) end
-- Only the stamp can differ: a caller whose tier or user has changed asks for a rotation.
return {CONFLICT, redis.call('GET', KEYS[1])}
