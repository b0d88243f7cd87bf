-- needs _clock _ledger
-- End a hold. ARGV: ahead, remember ms, hold, lines at most, number of charges; of each charge: balance,
-- nano, keep ms; of each line of the journal: id, at, JSON. Gives 1, or 0 if it was settled before.

local now = clock()
local remember, id, most = ARGV[2], ARGV[3], tonumber(ARGV[4])
local rows = 6 + 3 * tonumber(ARGV[5])
expire(now, remember)
local key = base .. 'hold:' .. id
local state, parts = read_hold(key)
if state == 'settled' then
  return 0
end
local times, lines = base .. 'journal', base .. 'lines'
redis.call('ZCARD', times) -- both fail here, before anything is changed, if they are something else
redis.call('HLEN', lines)

-- One by one: their sum could be beyond what a double holds exactly.
local moves = {}
local function add(balance, spent, held, keep, likely)
  moves[#moves + 1] = { balance = balance, spent = spent, held = held, keep = keep, likely = likely }
end
for balance, part in pairs(parts) do
  if state == 'open' then
    add(balance, 0, -part.nano, part.keep)
  else
    add(balance, 0, 0, part.keep, part.likely)
  end
end
for at = 6, rows - 1, 3 do
  add(ARGV[at], tonumber(ARGV[at + 1]), 0, tonumber(ARGV[at + 2]))
end
for _, one in ipairs(moves) do
  redis.call('HLEN', base .. 'sum:' .. one.balance)
end

redis.call('DEL', key)
redis.call('HSET', key, 'state', 'settled')
redis.call('PEXPIRE', key, remember)
redis.call('ZREM', holds, id)
for _, one in ipairs(moves) do
  move(one.balance, one.spent, one.held, one.keep, one.likely)
end
for at = rows, #ARGV, 3 do
  if redis.call('ZADD', times, 'NX', ARGV[at + 1], ARGV[at]) == 1 then
    redis.call('HSET', lines, ARGV[at], ARGV[at + 2])
  end
end
local over = redis.call('ZCARD', times) - most
if over > 0 then -- more than came now, that it becomes less where fewer are allowed than before; but not all at once
  local old = redis.call('ZPOPMIN', times, whole(math.min(over, 10 + (#ARGV - rows + 1) / 3)))
  for at = 1, #old, 2 do
    redis.call('HDEL', lines, old[at])
  end
end
return 1
