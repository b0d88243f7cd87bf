-- needs _clock _limits
-- Take from several limits, or from none. ARGV: ahead, ticket, lease s; of each ask five, as in _limits.
-- Gives 'refused retry_after levels…'; '-' stands for none; or 'more': there are more leases to end first.

local now = clock()
local id, lease = ARGV[2], tonumber(ARGV[3])
if expire(now) then
  return 'more'
end
local asks = read_asks(4, now)
local ticket = read_ticket(id)
if ticket and ticket.ends <= now then
  free(id, ticket)
  ticket = false
  asks = read_asks(4, now)
end

if not ticket then
  local refused, after = '-', 0
  for index, ask in ipairs(asks) do
    local lacking
    if ask.increment then
      local room = now - math.max(ask.tat, now) + ask.burst * ask.increment
      lacking = math.min(ask.amount, ask.burst) * ask.increment - room
      if lacking <= ask.burst * ask.increment * 1e-9 + math.abs(now) * 1e-15 then
        lacking = 0
      end
    else
      lacking = ask.held + ask.amount > ask.limit and math.huge or 0
    end
    if lacking > 0 then
      refused = refused == '-' and whole(index - 1) or refused
      after = math.max(after, lacking)
    end
  end
  if refused ~= '-' then
    return refused .. ' ' .. (after == math.huge and '-' or text(after / 1e6)) .. ' ' .. levels(asks, now)
  end
end

local key, ends = base .. 'ticket:' .. id, now + lease * 1e6
local holds_slots = ticket and next(ticket.slots) ~= nil
if not ticket then
  local tats, held = {}, {} -- a key may be asked for twice
  redis.call('HSET', key, 'at', text(now))
  for _, ask in ipairs(asks) do
    if ask.increment then
      local tat = math.max(tats[ask.key] or ask.tat, now) + ask.amount * ask.increment
      tats[ask.key] = tat
      write_tat(ask.key, tat, now)
      redis.call('HSET', key, 'rate:' .. ask.key, text(ask.amount) .. ' ' .. text(ask.increment))
    else
      held[ask.key] = tonumber(redis.call('HINCRBYFLOAT', slots, ask.key, text(ask.amount)))
      redis.call('HINCRBYFLOAT', key, 'slot:' .. ask.key, text(ask.amount))
      holds_slots = true
    end
  end
  for _, ask in ipairs(asks) do
    ask.tat, ask.held = tats[ask.key], held[ask.key]
  end
end
redis.call('HSET', key, 'ends', text(ends))
local life = math.min(math.max(lease * 1000, 0), 1e12)
if holds_slots then
  redis.call('ZADD', leases, text(ends), id)
  redis.call('PEXPIRE', key, whole(life + MONTH)) -- until somebody sweeps it
  keep(slots, life + MONTH)
  keep(leases, life + MONTH)
else
  redis.call('PEXPIRE', key, whole(life + 60000))
end
return '- 0 ' .. levels(asks, now)
