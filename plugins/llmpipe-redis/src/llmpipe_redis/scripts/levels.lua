-- needs _clock _limits
-- How limits stand. ARGV: ahead; of each ask five, as in _limits. Gives 'remaining reset …'.

local now = clock()
expire(now)
return levels(read_asks(2, now), now)
