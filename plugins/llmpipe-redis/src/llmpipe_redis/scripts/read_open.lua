-- needs _clock
-- Circuits that are open. ARGV: ahead. Gives key, 'seconds reopens' of each.

local now, key, open = clock(), base .. 'open', {}
local fields = redis.call('HGETALL', key)
for at = 1, #fields, 2 do
  local till, reopens = string.match(fields[at + 1], '^(%S+) (%S+)$')
  if tonumber(till) > now then
    open[#open + 1] = fields[at]
    open[#open + 1] = text((tonumber(till) - now) / 1e6) .. ' ' .. reopens
  else
    redis.call('HDEL', key, fields[at])
  end
end
return open
