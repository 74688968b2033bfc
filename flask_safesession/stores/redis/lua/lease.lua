-- KEYS: lease. ARGV: milliseconds. Returns 1 if the caller has it now, 0 if it was not free.
local p = string.match(KEYS[1], '^(.*):lease:')
go_on_at_maxmemory(p)
return redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1]) and 1 or 0
