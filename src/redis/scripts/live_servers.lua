-- uses: clock
-- keys: list
-- args:

-- Returns the live members of a list of servers, or of tables of workers, and removes the others.
redis.call('ZREMRANGEBYSCORE', list, '-inf', now_s - 1)
return redis.call('ZRANGEBYSCORE', list, '(' .. now_s, '+inf')
