-- The second part of commit.lua, after the common functions: for what is repeated, changed, due or gone.
-- Returns LIVE, now and the record as it is, if this call is a repetition; CONFLICT, now and the record,
-- and whether the expected stamp is among its own (1 or 0); or another status.
local p, key = split(KEYS[1])
local now = clock()
local r, other = find(p, now, key)
if not r then return other end
local found = dated(now, redis.call('GET', KEYS[1]))
if written_by(r, string.sub(ARGV[3], 4, 10)) then return {LIVE, found} end
return {CONFLICT, found, written_by(r, ARGV[1]) and 1 or 0}
