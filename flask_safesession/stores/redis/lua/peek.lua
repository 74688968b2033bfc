-- KEYS: record. ARGV: bytes of the record to return. Returns LIVE, the key under which the session goes on,
-- and these bytes, empty if it is not live. Changes nothing.
local p, key = split(KEYS[1])
local now = clock()
key = resolve(p, now, key)
local r, other = parse(head(p .. ':s:' .. key))
if other and other[1] ~= UNKNOWN then return other end
local is_live = r and deadline(r) > now
return {LIVE, key, is_live and redis.call('GETRANGE', p .. ':s:' .. key, 0, ARGV[1] - 1) or ''}
