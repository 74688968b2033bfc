-- KEYS: record. ARGV: bytes of the record to be told. Answers LIVE, the key under which the session goes on and
-- these bytes, or another status. Changes nothing, whatever it finds.
local p, key = split(KEYS[1])
local now = clock()
key = where_it_is(p, now, key)
local r, other = parse(head(p .. ':s:' .. key))
if not r then return no_record(p, now, key, other) end
if deadline(r) <= now then return {UNKNOWN, key} end
return {LIVE, key, redis.call('GETRANGE', p .. ':s:' .. key, 0, ARGV[1] - 1)}
