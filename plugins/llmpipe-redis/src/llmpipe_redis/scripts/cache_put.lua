-- needs _clock
-- Keep an entry. ARGV: ahead, key, milliseconds, entry.

local now = clock()
local head = struct.pack('<dd', now, now + tonumber(ARGV[3]) * 1000)
redis.call('SET', base .. ARGV[2], head .. ARGV[4], 'PX', ARGV[3])
return 0
