-- needs _clock _ledger
-- What is spent and held. ARGV: ahead, remember ms, balances. Gives 'spent held spent held …'.

expire(clock(), ARGV[2])
local found = {}
for at = 3, #ARGV do
  local sum = redis.call('HMGET', base .. 'sum:' .. ARGV[at], 'spent', 'held')
  found[#found + 1] = sum[1] or '0'
  found[#found + 1] = sum[2] or '0'
end
return table.concat(found, ' ')
