-- needs _clock _queue
-- Ids and reasons of the dead, oldest first. ARGV: ahead, how many.

if sweep(clock()) then
  return 'more'
end
local found = {}
for _, id in ipairs(redis.call('ZRANGE', base .. 'dead', 0, tonumber(ARGV[2]) - 1)) do
  found[#found + 1] = id
  found[#found + 1] = redis.call('HGET', item_key(id), 'w') or ''
end
return found
