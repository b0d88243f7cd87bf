-- needs _clock
-- Lines of the journal, ordered by (at, id). ARGV: ahead, since, until, how many, at of the last, its id.
-- The last two are '' for the first page. Gives JSON of each; less than `how many` only at the end.

local times, lines = base .. 'journal', base .. 'lines'

-- As the sorted set has them: by bytes. What `>` says of texts depends on the server's language.
local function above(one, other)
  for place = 1, math.min(#one, #other) do
    local a, b = string.byte(one, place), string.byte(other, place)
    if a ~= b then
      return a > b
    end
  end
  return #one > #other
end

local till, most, at, id = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local rank = redis.call('ZCOUNT', times, '-inf', '(' .. ARGV[2])
if at ~= '' then
  local after = redis.call('ZCOUNT', times, '-inf', '(' .. at)
  local score = redis.call('ZSCORE', times, id)
  if score and tonumber(score) == tonumber(at) then
    after = redis.call('ZRANK', times, id) + 1
  else -- that line is gone: go to where it was
    while true do
      local next = redis.call('ZRANGE', times, after, after, 'WITHSCORES')
      if #next == 0 or tonumber(next[2]) > tonumber(at) or above(next[1], id) then
        break
      end
      after = after + 1
    end
  end
  rank = math.max(rank, after)
end
local ids = redis.call('ZRANGE', times, rank, rank + most - 1, 'WITHSCORES')
local found = {}
for place = 1, #ids, 2 do
  if tonumber(ids[place + 1]) >= till then
    break
  end
  found[#found + 1] = redis.call('HGET', lines, ids[place])
end
return found
