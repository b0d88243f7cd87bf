-- needs _clock _queue
-- Lease the next items. ARGV: ahead, owner, how many, seconds. Gives id, payload, token, attempt of each.

local now = clock()
if sweep(now) then
  return 'more'
end
local found = {}
for _, name in ipairs(redis.call('ZRANGE', base .. 'ready', 0, tonumber(ARGV[3]) - 1)) do
  redis.call('ZREM', base .. 'ready', name)
  local item = load(string.sub(name, 17))
  if item and item.s == 'pending' then
    local token = redis.call('HINCRBY', base .. 'counts', 'token', 1)
    local attempt = redis.call('HINCRBY', item.key, 'a', 1)
    redis.call('HSET', item.key, 's', 'leased', 't', whole(token), 'by', ARGV[2])
    redis.call('ZREM', base .. 'pending', item.id)
    redis.call('ZADD', base .. 'leased', text(now + tonumber(ARGV[4]) * 1e6), item.id)
    count('pending', -1)
    count('leased', 1)
    if item.o ~= '' then
      redis.call('HSET', base .. 'busy', item.o, item.id)
    end
    found[#found + 1] = item.id
    found[#found + 1] = redis.call('HGET', item.key, 'p')
    found[#found + 1] = token
    found[#found + 1] = attempt
  end
end
return found
