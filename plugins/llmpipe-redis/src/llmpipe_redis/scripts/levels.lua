-- needs _clock _limits
-- How limits stand. ARGV: ahead; of each ask five, as in _limits. Gives 'remaining reset …'; or 'more', as take.

local now = clock()
if expire(now) then
  return 'more'
end
return levels(read_asks(2, now), now)
