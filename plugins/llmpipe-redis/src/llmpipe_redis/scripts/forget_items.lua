-- needs _clock _queue
-- Drop what has been over for that long, two hundred at most; how many went. ARGV: ahead, seconds.

local now = clock()
if sweep(now) then
  return 'more'
end
local till = text(now - tonumber(ARGV[2]) * 1e6)
local over = redis.call('ZRANGEBYSCORE', base .. 'ended', '-inf', till, 'LIMIT', 0, 200)
for _, id in ipairs(over) do
  local key = item_key(id)
  local state = redis.call('HGET', key, 's')
  redis.call('ZREM', base .. 'ended', id)
  redis.call('ZREM', base .. 'dead', id)
  if state then
    count(state, -1)
    count('bytes', -redis.call('HSTRLEN', key, 'p') - redis.call('HSTRLEN', key, 'r'))
    redis.call('DEL', key)
  end
end
return #over
