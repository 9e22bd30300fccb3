-- uses: clock

-- KEYS: a list of servers or of tables of workers. ARGV: now. Returns its members that live, and
-- removes the others.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_s - 1)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now_s, '+inf')
