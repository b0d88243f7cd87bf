-- needs _clock _queue
-- Begin a lease anew; whether it was held. ARGV: ahead, id, token, seconds.

local now = clock()
if sweep(now) then
  return 'more'
end
local item = held(ARGV[2], ARGV[3], now)
if not item then
  return 0
end
redis.call('ZADD', base .. 'leased', text(now + tonumber(ARGV[4]) * 1e6), item.id)
return 1
