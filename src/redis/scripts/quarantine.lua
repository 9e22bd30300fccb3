-- uses: one_queue clock read fence splice

-- Sets runs aside whose message is not valid: archives each, with a message in place of the
-- original, which it keeps as tmx_raw.
-- KEYS: the queue's. ARGV: now, then id, token, head, tail of each (see settle).
-- Returns for each: 1 done; 0 it is not the caller's.
redis.call('ZCARD', P .. 'archived')
local replies = {}
for at = 3, #ARGV, 4 do
  local id = ARGV[at]
  local score = redis.call('ZSCORE', P .. 'lease', id)
  if score and holds_run(read('HGET', T .. id, 'tmx_run'), ARGV[at + 1], score) then
    redis.call('LREM', P .. 'active', -1, id)
    redis.call('ZREM', P .. 'lease', id)
    redis.call('HSETNX', T .. id, 'tmx_raw', redis.call('HGET', T .. id, 'msg'))
    redis.call('HSET', T .. id, 'msg', ARGV[at + 2] .. stamp .. ARGV[at + 3], 'state', 'archived')
    -- The facts were of the message that is no more.
    redis.call('HDEL', T .. id, 'tmx_run', 'tmx_cancel', 'tmx_facts')
    redis.call('ZADD', P .. 'archived', now_s, id)
    replies[#replies + 1] = 1
  else
    replies[#replies + 1] = 0
  end
end
return replies
