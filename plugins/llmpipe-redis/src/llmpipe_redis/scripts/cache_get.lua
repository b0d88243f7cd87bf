-- needs _clock
-- An entry and its age, or nothing. ARGV: ahead, key. What is kept: two doubles, when it was stored and
-- when it ends; then the entry.

local now = clock()
local found = redis.call('GET', base .. ARGV[2])
if not found or #found < 16 then
  return false
end
local stored, ends = struct.unpack('<dd', found)
if now >= ends then
  return false
end
return { text(math.max(0, now - stored) / 1e6), string.sub(found, 17) }
