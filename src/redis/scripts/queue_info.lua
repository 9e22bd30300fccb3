-- uses: one_queue clock read statistics
-- args:

-- Returns {now, paused, pending, active, scheduled, retry, archived,
-- completed, number of groups, tasks in at most 1000 of these, time since which the next task is pending in ns or nil, processed today,
-- failed today, processed, failed (each nil for none)}.
local oldest = redis.call('LINDEX', P .. 'pending', -1)
local since = oldest and read('HGET', T .. oldest, 'pending_since') or false
local today = day()
local aggregating = 0
for _, group in ipairs(redis.call('SRANDMEMBER', P .. 'groups', 1000)) do
  aggregating = aggregating + (read('ZCARD', P .. 'g:' .. group) or 0)
end
return {now, redis.call('EXISTS', P .. 'paused'), redis.call('LLEN', P .. 'pending'),
    redis.call('LLEN', P .. 'active'), redis.call('ZCARD', P .. 'scheduled'),
    redis.call('ZCARD', P .. 'retry'), redis.call('ZCARD', P .. 'archived'),
    redis.call('ZCARD', P .. 'completed'), redis.call('SCARD', P .. 'groups'), aggregating, since,
    redis.call('GET', P .. 'processed:' .. today), redis.call('GET', P .. 'failed:' .. today),
    redis.call('GET', P .. 'processed'), redis.call('GET', P .. 'failed')}
