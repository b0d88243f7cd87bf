-- needs _clock
-- Drop lines of the journal from before a time, five hundred at most; how many. ARGV: ahead, before.

local times, lines = base .. 'journal', base .. 'lines'
local over = redis.call('ZRANGEBYSCORE', times, '-inf', '(' .. ARGV[2], 'LIMIT', 0, 500)
if #over > 0 then
  redis.call('ZREM', times, unpack(over))
  redis.call('HDEL', lines, unpack(over))
end
return #over
