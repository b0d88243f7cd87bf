-- Time, and numbers as text.
-- All keys of one thing begin with KEYS[1], which is no key itself; ARGV[1] is how far time is ahead.

local base = KEYS[1]

-- Microseconds by this server's clock, since 2026: a double then tells 1/256 of one, and since 1970 only 1/4.
local function clock()
  local time = redis.call('TIME')
  return (tonumber(time[1]) - 1767225600 + tonumber(ARGV[1])) * 1e6 + tonumber(time[2])
end

local function text(number)
  return string.format('%.17g', number)
end

local function whole(number)
  return string.format('%.0f', number)
end
