-- needs _clock _ledger
-- Hold all of several draws, or none. ARGV: ahead, remember ms, hold, lease s; then of each draw:
-- balance, nano, limit or '', likely, keep ms. Gives nothing; or 'settled'; or what is short: 'index spent held';
-- or 'more': there are more leases to end first, in another turn.

local now = clock()
local remember, id, lease = ARGV[2], ARGV[3], tonumber(ARGV[4])
if expire(now, remember) == SOME then
  return 'more'
end
local key = base .. 'hold:' .. id
local state, parts = read_hold(key)
if state == 'settled' then
  return 'settled'
end

for at = 5, #ARGV, 5 do
  local nano, limit, part = tonumber(ARGV[at + 1]), ARGV[at + 2], parts[ARGV[at]]
  local has = part and state == 'open' and nano <= part.nano
  local sum = redis.call('HMGET', base .. 'sum:' .. ARGV[at], 'spent', 'held', 'refunded')
  local spent, held = tonumber(sum[1] or 0), tonumber(sum[2] or 0)
  if part then
    nano = math.max(nano, part.nano)
    if state == 'expired' then
      spent = math.max(spent - part.likely, -tonumber(sum[3] or 0)) -- as `move` will
    else
      held = held - part.nano
    end
  end
  -- By differences: a sum could be beyond what a double holds exactly.
  if not has and limit ~= '' and nano > tonumber(limit) - spent - held then
    return whole((at - 5) / 5) .. ' ' .. whole(spent) .. ' ' .. whole(held)
  end
end

if state == 'expired' then -- take back what was charged; what is not asked for now is not held again
  local asked = {}
  for at = 5, #ARGV, 5 do
    asked[ARGV[at]] = true
  end
  for balance, part in pairs(parts) do
    move(balance, 0, asked[balance] and part.nano or 0, part.keep, part.likely)
    if not asked[balance] then
      redis.call('HDEL', key, balance)
    end
  end
end
redis.call('HSET', key, 'state', 'open')
redis.call('PERSIST', key)
redis.call('ZADD', holds, text(now + lease * 1e6), id)
for at = 5, #ARGV, 5 do
  local balance, nano, likely, keep = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local part = parts[balance] or { nano = 0, likely = 0, keep = keep }
  move(balance, 0, math.max(0, nano - part.nano), keep)
  part.nano, part.likely, part.keep = math.max(part.nano, nano), math.max(part.likely, likely), keep
  parts[balance] = part
  redis.call('HSET', key, balance, whole(part.nano) .. ' ' .. whole(part.likely) .. ' ' .. whole(keep))
end
return false
