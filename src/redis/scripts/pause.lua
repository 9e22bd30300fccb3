-- uses: one_queue clock
-- args:

-- Returns 1, or 0 if the queue is paused already.
if redis.call('EXISTS', P .. 'paused') == 1 then return 0 end
redis.call('ZREM', P .. 'tmx:due', '')
redis.call('SET', P .. 'paused', now_s)
return 1
