-- needs _clock
-- A circuit is open, at least until then. ARGV: ahead, key, seconds, reopens.

local now, key = clock(), base .. 'open'
local till, reopens = now + tonumber(ARGV[3]) * 1e6, tonumber(ARGV[4])
local found = redis.call('HGET', key, ARGV[2])
if found then
  local before, times = string.match(found, '^(%S+) (%S+)$')
  if tonumber(before) > now then -- one that is over leaves nothing to this one
    till, reopens = math.max(till, tonumber(before)), math.max(reopens, tonumber(times))
  end
end
redis.call('HSET', key, ARGV[2], text(till) .. ' ' .. whole(reopens))
local life = math.min(math.max(math.ceil((till - now) / 1000), 0), 1e12) + 60000
if redis.call('PTTL', key) < life then
  redis.call('PEXPIRE', key, whole(life))
end
return 0
