-- What several scripts of the queue do. Of each item a hash, item:<id>:
--   p payload, o order, pr -priority, n number, c came at, d due at, x expires at or '', m attempts at most,
--   s state, a attempts, t token, e ended at, r result, w reason
-- and sorted sets of ids:
--   ready     what can be leased now, by -priority; its members begin with the number, so that they are in order
--   delayed   what can be leased later, by when
--   leased    by the end of the lease
--   pending   by when it came
--   expiry    what can expire, by when
--   ended     by when it ended;  dead  by number
--   order:<order>  what is not over of an order, by number: only the first is in ready or delayed, and only
--                  while none of the order is leased
-- and busy, a hash: orders of which an item is leased; and counts, a hash: items by state, bytes, and the last number and token.

local function item_key(id)
  return base .. 'item:' .. id
end

local function count(state, by)
  if by ~= 0 then -- it may be -0, which is no number to Redis
    redis.call('HINCRBY', base .. 'counts', state, whole(by))
  end
end

local SOME = 250
local NAMES = { 'o', 'pr', 'n', 'c', 'd', 'x', 'm', 's', 'a', 't', 'w' }

-- The item's fields but payload and result, or nil.
local function load(id)
  local values = redis.call('HMGET', item_key(id), unpack(NAMES))
  local item = { id = id }
  for place, name in ipairs(NAMES) do
    if not values[place] then
      return nil
    end
    item[name] = values[place]
  end
  item.key = item_key(id)
  return item
end

local function member(item)
  return string.format('%016.0f', tonumber(item.n)) .. item.id
end

-- Put a pending item, the first of its order, where it can be leased.
local function place(item, now)
  if tonumber(item.d) > now then
    redis.call('ZADD', base .. 'delayed', item.d, item.id)
  else
    redis.call('ZREM', base .. 'delayed', item.id)
    redis.call('ZADD', base .. 'ready', item.pr, member(item))
  end
end

-- Put the first of an order where it can be leased, unless one of the order is leased.
local function place_first(order, now)
  local busy = redis.call('HGET', base .. 'busy', order)
  if busy and redis.call('ZSCORE', base .. 'leased', busy) then
    return
  end
  local first = redis.call('ZRANGE', base .. 'order:' .. order, 0, 0)[1]
  local item = first and load(first)
  if item and item.s == 'pending' then
    place(item, now)
  end
end

-- The item is in nobody's hands any more.
local function unlease(item)
  redis.call('ZREM', base .. 'leased', item.id)
  count('leased', -1)
  if item.o ~= '' then
    redis.call('HDEL', base .. 'busy', item.o)
  end
end

local function displace(item)
  redis.call('ZREM', base .. 'ready', member(item))
  redis.call('ZREM', base .. 'delayed', item.id)
end

-- The item is over, since `at`: done, dead or expired.
local function finish(item, state, at, now)
  redis.call('HSET', item.key, 's', state, 'e', text(at), 'w', item.w)
  redis.call('ZREM', base .. 'expiry', item.id)
  redis.call('ZADD', base .. 'ended', text(at), item.id)
  count(state, 1)
  if state == 'dead' then
    redis.call('ZADD', base .. 'dead', item.n, item.id)
  end
  if item.o ~= '' then
    redis.call('ZREM', base .. 'order:' .. item.o, item.id)
    place_first(item.o, now)
  end
end

-- The item, in nobody's hands since `at`, is pending, or over if it is out of attempts or of time.
local function pend(item, at, now)
  if tonumber(item.a) >= tonumber(item.m) then
    finish(item, 'dead', at, now)
  elseif item.x ~= '' and tonumber(item.x) <= now then
    finish(item, 'expired', math.max(tonumber(item.x), at), now)
  else
    redis.call('HSET', item.key, 's', 'pending', 'd', item.d, 'w', item.w)
    redis.call('ZADD', base .. 'pending', item.c, item.id)
    count('pending', 1)
    if item.o == '' then
      place(item, now)
    else
      place_first(item.o, now)
    end
  end
end

-- End leases that are over, and what is out of time: SOME of each at most. Whether there may be more; then a
-- script says 'more' and does nothing else, and is run again.
local function sweep(now)
  local till = text(now)
  local leases = redis.call('ZRANGEBYSCORE', base .. 'leased', '-inf', till, 'WITHSCORES', 'LIMIT', 0, SOME)
  for place = 1, #leases, 2 do
    local id = leases[place]
    redis.call('ZREM', base .. 'leased', id)
    local item = load(id)
    if item and item.s == 'leased' then
      unlease(item)
      item.w = item.w == '' and 'its lease ended' or item.w
      pend(item, tonumber(leases[place + 1]), now)
    end
  end
  local expiring = redis.call('ZRANGEBYSCORE', base .. 'expiry', '-inf', till, 'WITHSCORES', 'LIMIT', 0, SOME)
  for place = 1, #expiring, 2 do
    local id = expiring[place]
    redis.call('ZREM', base .. 'expiry', id)
    local item = load(id)
    if item and item.s == 'pending' then -- one that is leased expires when it comes back
      redis.call('ZREM', base .. 'pending', id)
      count('pending', -1)
      displace(item)
      finish(item, 'expired', tonumber(expiring[place + 1]), now)
    end
  end
  local waiting = redis.call('ZRANGEBYSCORE', base .. 'delayed', '-inf', till, 'LIMIT', 0, 2 * SOME)
  for _, id in ipairs(waiting) do
    redis.call('ZREM', base .. 'delayed', id)
    local item = load(id)
    if item and item.s == 'pending' then
      redis.call('ZADD', base .. 'ready', item.pr, member(item))
    end
  end
  return math.max(#leases, #expiring, #waiting) == 2 * SOME
end

-- The item if that lease of it runs, else nil.
local function held(id, token, now)
  local item = load(id)
  if item and item.s == 'leased' and item.t == token then
    local till = redis.call('ZSCORE', base .. 'leased', id)
    return till and tonumber(till) > now and item or nil
  end
end
