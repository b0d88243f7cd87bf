-- needs _clock _queue
-- An item failed; whether its lease was held. ARGV: ahead, id, token, reason, delay s, final (1 or 0).

local now = clock()
if sweep(now) then
  return 'more'
end
local item = held(ARGV[2], ARGV[3], now)
if not item then
  return 0
end
unlease(item)
item.w, item.d = ARGV[4], text(now + tonumber(ARGV[5]) * 1e6)
if ARGV[6] == '1' then
  finish(item, 'dead', now, now)
else
  pend(item, now, now)
end
return 1
