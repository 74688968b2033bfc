-- KEYS: record. ARGV: expected stamp, slide (1 or 0), draft. Answers LIVE, now, head.
local p, key = split(KEYS[1])
local r, other = parse(head(KEYS[1]))
if not r then return other end

local now = clock()
local draft = parse(string.sub(ARGV[3], 1, HEADER))
if written_by(r, draft.stamp) then return answer(now, r) end
if deadline(r) <= now then return due(p, key, r) end
if r.stamp ~= ARGV[1] then return {CONFLICT, redis.call('GET', KEYS[1])} end

r.older = r.stamp .. string.sub(r.older, 1, 7)
r.stamp = draft.stamp
if ARGV[2] == '1' then r.last = now end
r.absolute = r.created + draft.absolute
r.idle = draft.idle
write(p, key, ARGV[3], r, now)
return answer(now, r)
