-- needs _clock _queue
-- How it stands with an item: state, attempts, result or nothing, reason. ARGV: ahead, id.

if sweep(clock()) then
  return 'more'
end
return redis.call('HMGET', item_key(ARGV[2]), 's', 'a', 'r', 'w')
