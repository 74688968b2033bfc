-- KEYS: record. ARGV: a tombstone from another shard, milliseconds. Puts it there, unless there is something
-- already. Answers LIVE.
redis.call('SET', KEYS[1], ARGV[1], 'PX', math.max(1, tonumber(ARGV[2])), 'NX')
return {LIVE}
