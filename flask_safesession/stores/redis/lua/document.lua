-- KEYS: a document (when it was written, 11 hexadecimal digits, and what it says). ARGV: the document to
-- be kept, or '' to read only; the one whose place it takes, '' if there is none. Answers LIVE, now, and
-- what is there now.
local p = string.match(KEYS[1], '^(.*):doc:')
local stored = redis.call('GET', KEYS[1]) or ''
local now = clock()
if ARGV[1] ~= '' and string.sub(stored, 12) == ARGV[2] then
  go_on_at_maxmemory(p)
  stored = string.format('%011x', now) .. ARGV[1]
  redis.call('SET', KEYS[1], stored)
end
return {LIVE, now, stored}
