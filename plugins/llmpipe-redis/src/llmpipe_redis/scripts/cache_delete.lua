-- needs _clock
-- Forget an entry; whether there was one. ARGV: ahead, key.

local key = base .. ARGV[2]
local head = redis.call('GETRANGE', key, 0, 15)
local there = 0
if #head == 16 then
  local _, ends = struct.unpack('<dd', head)
  there = clock() < ends and 1 or 0
end
redis.call('DEL', key)
return there
