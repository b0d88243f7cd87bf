-- needs _clock
-- Ids of the holds whose lease runs.

return redis.call('ZRANGEBYSCORE', base .. 'holds', '(' .. text(clock()), '+inf')
