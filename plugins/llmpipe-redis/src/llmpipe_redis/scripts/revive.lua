-- needs _clock _queue
-- Give a dead or expired item all its attempts anew; whether there was one. ARGV: ahead, id.

local now = clock()
if sweep(now) then
  return 'more'
end
local item = load(ARGV[2])
if not item or (item.s ~= 'dead' and item.s ~= 'expired') then
  return 0
end
redis.call('ZREM', base .. 'ended', item.id)
redis.call('ZREM', base .. 'dead', item.id)
count(item.s, -1)
if item.o ~= '' then -- it came before those of its order that wait now
  local order = base .. 'order:' .. item.o
  local head = redis.call('ZRANGE', order, 0, 0)[1]
  redis.call('ZADD', order, item.n, item.id)
  local first = head and load(head)
  if first and first.s == 'pending' and tonumber(first.n) > tonumber(item.n) then
    displace(first)
  end
end
item.a, item.d, item.x, item.w = '0', text(now), '', ''
redis.call('HSET', item.key, 'a', '0', 'x', '')
pend(item, now, now)
return 1
