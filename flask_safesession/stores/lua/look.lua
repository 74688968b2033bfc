-- KEYS: record. ARGV: bytes of the record to be told. Answers LIVE, these bytes and the key under which the
-- session goes on, or another status. Changes nothing, whatever it finds.
local p, key = split(KEYS[1])
local where, r, other = locate(p, key, '')
if not r then return no_record(p, where, other) end
if deadline(r) <= clock() then return {UNKNOWN} end
return {LIVE, redis.call('GETRANGE', p .. ':s:' .. where, 0, ARGV[1] - 1), where}
