-- needs _clock _queue
-- Accept an item. ARGV: ahead, id, payload, order, -priority, expires in s or '', delay s, attempts, items at
-- most, bytes at most. Gives 'new', 'same', 'conflict', or what is there when it is full: 'items bytes'.

local now, id, payload = clock(), ARGV[2], ARGV[3]
if sweep(now) then
  return 'more'
end
local key = item_key(id)
local there = redis.call('HGET', key, 'p')
if there then
  return there == payload and 'same' or 'conflict'
end
local counts = redis.call('HMGET', base .. 'counts', 'pending', 'leased', 'done', 'dead', 'expired', 'bytes')
local items, bytes = 0, tonumber(counts[6] or 0)
for place = 1, 5 do
  items = items + tonumber(counts[place] or 0)
end
if items >= tonumber(ARGV[9]) or bytes + #payload > tonumber(ARGV[10]) then
  return whole(items) .. ' ' .. whole(bytes)
end

local number = redis.call('HINCRBY', base .. 'counts', 'number', 1)
local item = {
  id = id, key = key, o = ARGV[4], pr = ARGV[5], n = whole(number), c = text(now),
  d = text(now + tonumber(ARGV[7]) * 1e6), x = '', m = ARGV[8], a = '0', w = '',
}
if ARGV[6] ~= '' then
  item.x = text(now + tonumber(ARGV[6]) * 1e6)
  redis.call('ZADD', base .. 'expiry', item.x, id)
end
redis.call('HSET', key, 'p', payload, 'o', item.o, 'pr', item.pr, 'n', item.n, 'c', item.c, 'd', item.d,
  'x', item.x, 'm', item.m, 's', 'pending', 'a', '0', 't', '0', 'w', '')
count('bytes', #payload)
if item.o ~= '' then
  redis.call('ZADD', base .. 'order:' .. item.o, item.n, id)
end
pend(item, -math.huge, now)
return 'new'
