-- uses: one_queue clock read fence splice
-- args:
-- each run: id token head tail

-- Archives runs whose message is not valid. Each gets a message in place of the original, which is kept as tmx_raw; its
-- head and tail are as in settle. Returns for each: 1 done; 0 the caller does not own it.
redis.call('ZCARD', P .. 'archived')
local replies = {}
for at = run_first, #ARGV, run_width do
  local id = ARGV[at + run_id]
  local score = redis.call('ZSCORE', P .. 'lease', id)
  if score and holds_run(read('HGET', T .. id, 'tmx_run'), ARGV[at + run_token], score) then
    redis.call('LREM', P .. 'active', -1, id)
    redis.call('ZREM', P .. 'lease', id)
    redis.call('HSETNX', T .. id, 'tmx_raw', redis.call('HGET', T .. id, 'msg'))
    local message = ARGV[at + run_head] .. stamp .. ARGV[at + run_tail]
    redis.call('HSET', T .. id, 'msg', message, 'state', 'archived')
    -- The facts belonged to the replaced message.
    redis.call('HDEL', T .. id, 'tmx_run', 'tmx_cancel', 'tmx_facts')
    redis.call('ZADD', P .. 'archived', now_s, id)
    replies[#replies + 1] = 1
  else
    replies[#replies + 1] = 0
  end
end
return replies
