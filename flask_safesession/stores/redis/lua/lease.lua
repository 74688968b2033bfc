-- KEYS: lease. ARGV: milliseconds. Answers 1 if it was free and is the caller's now.
local p = string.match(KEYS[1], '^(.*):lease:')
go_on_at_maxmemory(p)
return redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1]) and 1 or 0
