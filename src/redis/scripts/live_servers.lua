-- uses: clock
-- keys: list
-- args:

-- Of a list of servers, or of tables of workers, returns the members that live, and removes the others.
redis.call('ZREMRANGEBYSCORE', list, '-inf', now_s - 1)
return redis.call('ZRANGEBYSCORE', list, '(' .. now_s, '+inf')
