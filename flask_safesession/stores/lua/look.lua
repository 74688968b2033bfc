-- KEYS: record. ARGV: bytes of the record to be told. Answers LIVE and these bytes, or another status.
-- Changes nothing, whatever it finds.
local p, key = split(KEYS[1])
local raw = redis.pcall('GETRANGE', KEYS[1], 0, ARGV[1] - 1)
local r, other = parse(raw)
if not r then return no_record(p, key, other) end
if deadline(r) <= clock() then return {UNKNOWN} end
return {LIVE, raw}
