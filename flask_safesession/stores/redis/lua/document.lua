-- KEYS: a document (time of writing, 11 hexadecimal digits, and content). ARGV: the new content, or '' to
-- read only; the content that it replaces, '' if there is none. Returns LIVE, now, and what is stored then.
local p = string.match(KEYS[1], '^(.*):doc:')
local stored = redis.call('GET', KEYS[1]) or ''
local now = clock()
if ARGV[1] ~= '' and string.sub(stored, 12) == ARGV[2] then
  go_on_at_maxmemory(p)
  stored = string.format('%011x', now) .. ARGV[1]
  redis.call('SET', KEYS[1], stored)
end
return {LIVE, now, stored}
