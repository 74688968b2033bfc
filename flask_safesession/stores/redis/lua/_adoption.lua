-- Put before the scripts of adoption. Twin of stores/adoption.py. Keys:
--   {P}:a:LINK        the key of the session that was adopted
--   {P}:c:USER        adoption is closed for this user; {P}:c:all: for all
--   {P}:adopted       how many links and closings were made, when the last link was, and until when this is kept
-- They are kept for LINK_TTL at least, since the date of the end may be moved later.
local MOVED = 12
local LINK_TTL = 34560000000

-- Returns until when a link or a closing is kept. UNTIL: when adoption ends; '0': without a date.
local function kept(until_, now)
  return math.max(tonumber(until_), now + LINK_TTL)
end

local function is_closed(p, user)
  return redis.call('EXISTS', p .. ':c:all') == 1 or (user ~= '' and redis.call('EXISTS', p .. ':c:' .. user) == 1)
end

-- Keeps the counts as long as the longest-lived of what they count.
local function keep_until(name, ends, now)
  if ends > tonumber(redis.call('HGET', name, 'until') or 0) then
    redis.call('HSET', name, 'until', ends)
    redis.call('PEXPIRE', name, ends - now)
  end
end
