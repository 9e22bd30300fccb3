-- uses:

-- give_up_run(key) ends the run of a task that returns as if it had not been taken: a cancellation request is kept for
-- the next run as tmx_wish, in addition to tmx_cancel, which applies only to the present run.
local function give_up_run(key)
  redis.call('HDEL', key, 'tmx_run')
  local wish = redis.call('HGET', key, 'tmx_cancel')
  if wish then redis.call('HSET', key, 'tmx_wish', wish) end
end
