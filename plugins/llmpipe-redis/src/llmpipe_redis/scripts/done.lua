-- needs _clock _queue
-- An item is done; whether its lease was held. ARGV: ahead, id, token, result.

local now = clock()
if sweep(now) then
  return 'more'
end
local item = held(ARGV[2], ARGV[3], now)
if not item then
  return 0
end
unlease(item)
redis.call('HSET', item.key, 'r', ARGV[4])
count('bytes', #ARGV[4])
finish(item, 'done', now, now)
return 1
