-- KEYS: record. ARGV: expected stamp, header of a draft with the new tier, user and limits. Returns LIVE, now
-- and the refiled record; CONFLICT, now and the record; or another status.
local p, key = split(KEYS[1])
local now = clock()
local r, other = find(p, now, key)
if not r then return other end
local to, raw = parse(ARGV[2]), redis.call('GET', KEYS[1])
if r.tier == to.tier and r.user == to.user then return {LIVE, dated(now, raw)} end
if r.stamp ~= ARGV[1] then return {CONFLICT, dated(now, raw)} end

local rest = string.sub(raw, (r.user == '' and HEADER or USER_HEADER) + 1)
local before = {group = r.group, user = r.user, tier = r.tier, generation = r.generation}
r.tier, r.user, r.group, r.idle, r.extended = to.tier, to.user, to.group, to.idle, to.extended
r.absolute = r.created + to.absolute
if deadline(r) <= now then
  unindex(p, key, before)
  return due(p, now, key, r)
end
raw = header(r) .. rest
redis.call('SET', KEYS[1], raw, 'PX', ttl(r, now))
unindex(p, key, before)
index(p, key, r)
index_user(p, key, r)
if r.user ~= '' then redis.call('HSETNX', p .. ':tiers', r.tier, r.tier) end
return {LIVE, dated(now, raw)}
