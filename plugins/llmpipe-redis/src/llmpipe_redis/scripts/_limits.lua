-- What several scripts of the limits do.
--   rate:<key>     theoretical arrival time (TAT) of a bucket that is not full, microseconds
--   slots          a hash: how many slots of a key are held
--   leases         a sorted set: tickets that hold slots, by the end of their lease
--   ticket:<id>    a hash: at, ends; rate:<key> to 'units, microseconds a unit'; slot:<key> to how many
--   reset:<key>    when it was reset last; what was taken before is not given back
-- A bucket is llmpipe/state/gcra.py once more, in microseconds.

local leases, slots = base .. 'leases', base .. 'slots'
local DAY = 86400000 -- milliseconds
local MONTH = 30 * DAY -- for which a ticket whose lease has ended waits for somebody who sweeps
local SOME = 250

local function keep(key, milliseconds)
  if redis.call('PTTL', key) < milliseconds then
    redis.call('PEXPIRE', key, whole(milliseconds))
  end
end

local function read_tat(key, now)
  return tonumber(redis.call('GET', base .. 'rate:' .. key) or now)
end

local function write_tat(key, tat, now)
  if tat > now then
    local life = math.min(math.ceil((tat - now) / 1000) + 1, 1e14) -- Redis has no time that is further off
    redis.call('SET', base .. 'rate:' .. key, text(tat), 'PX', whole(life))
  else
    redis.call('DEL', base .. 'rate:' .. key)
  end
end

local function read_ticket(id)
  local fields = redis.call('HGETALL', base .. 'ticket:' .. id)
  local ticket = { rates = {}, slots = {}, ends = 0, at = 0 }
  for at = 1, #fields, 2 do
    local name, value = fields[at], fields[at + 1]
    if name == 'ends' or name == 'at' then
      ticket[name] = tonumber(value)
    else
      ticket[string.sub(name, 1, 4) == 'rate' and 'rates' or 'slots'][string.sub(name, 6)] = value
    end
  end
  return #fields > 0 and ticket
end

-- Whether the key has been reset since the ticket took from it.
local function stale(key, ticket)
  return tonumber(redis.call('GET', base .. 'reset:' .. key) or -math.huge) >= ticket.at
end

local function free(id, ticket)
  redis.call('ZREM', leases, id)
  redis.call('DEL', base .. 'ticket:' .. id)
  for key, count in pairs(ticket.slots) do
    if not stale(key, ticket) and tonumber(redis.call('HINCRBYFLOAT', slots, key, '-' .. count)) < 1e-9 then
      redis.call('HDEL', slots, key)
    end
  end
end

-- Free the slots of tickets whose lease has ended, SOME at most; whether there may be more.
local function expire(now)
  local over = redis.call('ZRANGEBYSCORE', leases, '-inf', text(now), 'LIMIT', 0, SOME)
  for _, id in ipairs(over) do
    local ticket = read_ticket(id)
    if ticket then
      free(id, ticket)
    else
      redis.call('ZREM', leases, id)
    end
  end
  return #over == SOME
end

-- The asks in ARGV from `first` on: key, amount, limit, period s, burst.
local function read_asks(first, now)
  local asks = {}
  for at = first, #ARGV, 5 do
    local ask = { key = ARGV[at], amount = tonumber(ARGV[at + 1]), limit = tonumber(ARGV[at + 2]) }
    local period = tonumber(ARGV[at + 3])
    ask.burst = tonumber(ARGV[at + 4])
    if period > 0 then
      ask.increment = period * 1e6 / ask.limit
      ask.tat = read_tat(ask.key, now)
    else
      ask.held = tonumber(redis.call('HGET', slots, ask.key) or 0)
    end
    asks[#asks + 1] = ask
  end
  return asks
end

-- Of each ask 'remaining reset', in one text.
local function levels(asks, now)
  local found = {}
  for _, ask in ipairs(asks) do
    if ask.increment then
      local filled_in = math.max(ask.tat, now) - now
      found[#found + 1] = text(ask.burst - filled_in / ask.increment)
      found[#found + 1] = text(filled_in / 1e6)
    else
      found[#found + 1] = text(ask.limit - ask.held)
      found[#found + 1] = '0'
    end
  end
  return table.concat(found, ' ')
end
