-- needs _clock _queue
-- Items by state, bytes, and the age of the oldest pending, in one text. ARGV: ahead.

local now = clock()
if sweep(now) then
  return 'more'
end
local found = redis.call('HMGET', base .. 'counts', 'pending', 'leased', 'done', 'dead', 'expired', 'bytes')
for place = 1, 6 do
  found[place] = found[place] or '0'
end
local oldest = redis.call('ZRANGE', base .. 'pending', 0, 0, 'WITHSCORES')[2]
found[7] = oldest and text((now - tonumber(oldest)) / 1e6) or '0'
return table.concat(found, ' ')
