-- What several scripts of the ledger do.
--   holds          a sorted set: id of each open hold, by the end of its lease
--   hold:<id>      a hash: state (open, expired, settled), and of each balance: nano, likely, keep
--   sum:<balance>  a hash: spent, held; and refunded, if something was
-- A balance is called <period>|<account>. `keep` is how many milliseconds it is kept; below 0, for good.

local holds = base .. 'holds'
local SOME = 250

-- Charge a balance, or refund it; change what is held of it; take back what was charged as likely. Of what
-- a hold had put there no more is taken than may be left: a balance that was lost meanwhile was lost with it.
-- Its expiry is put off, never brought forward: a hold may need it for longer.
local function move(balance, spent, held, keep, likely)
  local key = base .. 'sum:' .. balance
  local left = redis.call('PTTL', key)
  if spent ~= 0 then
    redis.call('HINCRBY', key, 'spent', whole(spent))
    if spent < 0 then
      redis.call('HINCRBY', key, 'refunded', whole(-spent))
    end
  end
  if held ~= 0 and redis.call('HINCRBY', key, 'held', whole(held)) < 0 then
    redis.call('HSET', key, 'held', '0')
  end
  if likely and likely > 0 then
    local refunded = redis.call('HGET', key, 'refunded') or '0'
    if redis.call('HINCRBY', key, 'spent', whole(-likely)) < -tonumber(refunded) then
      redis.call('HSET', key, 'spent', refunded == '0' and '0' or '-' .. refunded)
    end
  end
  if keep < 0 then
    if left >= 0 then
      redis.call('PERSIST', key)
    end
  elseif left == -2 or (left >= 0 and left < keep) then
    redis.call('PEXPIRE', key, whole(keep))
  end
end

-- The state of a hold, or false, and its parts by balance.
local function read_hold(key)
  local state, parts = false, {}
  local fields = redis.call('HGETALL', key)
  for at = 1, #fields, 2 do
    if fields[at] == 'state' then
      state = fields[at + 1]
    else
      local nano, likely, keep = string.match(fields[at + 1], '^(%d+) (%d+) (%-?%d+)$')
      parts[fields[at]] = { nano = tonumber(nano), likely = tonumber(likely), keep = tonumber(keep) }
    end
  end
  return state, parts
end

-- Charge what is likely for a hold whose lease has ended.
local function expire_hold(id, remember)
  local key = base .. 'hold:' .. id
  redis.call('ZREM', holds, id) -- first: what fails below does not fail again and again
  local state, parts = read_hold(key)
  if state == 'open' then
    redis.call('HSET', key, 'state', 'expired')
    redis.call('PEXPIRE', key, remember)
    for balance, part in pairs(parts) do
      move(balance, part.likely, -part.nano, part.keep)
    end
  end
end

-- Do so for those that are due, SOME at most; how many there were.
local function expire(now, remember)
  local over = redis.call('ZRANGEBYSCORE', holds, '-inf', text(now), 'LIMIT', 0, SOME)
  for _, id in ipairs(over) do
    expire_hold(id, remember)
  end
  return #over
end
