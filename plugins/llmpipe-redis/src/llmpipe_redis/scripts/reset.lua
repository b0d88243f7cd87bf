-- needs _clock _limits
-- Fill buckets and free slots. ARGV: ahead, keys. Tickets are not looked for: what they took of these keys
-- is older than the reset, and so is not given back.

local now = clock()
expire(now)
local life = whole(math.max(DAY, redis.call('PTTL', leases)) + DAY)
for at = 2, #ARGV do
  redis.call('DEL', base .. 'rate:' .. ARGV[at])
  redis.call('HDEL', slots, ARGV[at])
  redis.call('SET', base .. 'reset:' .. ARGV[at], text(now), 'PX', life)
end
return 0
