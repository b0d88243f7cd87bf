-- needs _clock _limits
-- Correct what a ticket took, and free its slots. ARGV: ahead, ticket; key and units used, of each.
-- Gives 1, or 0 for a ticket that is not known, or whose lease has ended.

local now = clock()
expire(now)
local id = ARGV[2]
local ticket = read_ticket(id)
if not ticket then
  return 0
end
free(id, ticket)
if ticket.ends <= now then
  return 0
end
for at = 3, #ARGV, 2 do
  local key, units = ARGV[at], tonumber(ARGV[at + 1])
  local found = ticket.rates[key]
  if found and not stale(key, ticket) then
    local taken, increment = string.match(found, '^(%S+) (%S+)$')
    taken = tonumber(taken)
    local tat = read_tat(key, now)
    if units > taken then
      tat = math.max(tat, now) -- a bucket that is full again has no time; what was taken is refilled then
    end
    write_tat(key, tat + (units - taken) * tonumber(increment), now)
  end
end
return 1
