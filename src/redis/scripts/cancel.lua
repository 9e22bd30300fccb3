-- uses: one_queue clock read fence
-- args: id mode plain_channel channel message_to_ours message_to_others

-- Records the wish to cancel a run, and publishes it where its worker hears it: a run of ours as a
-- message that names its queue; a Go worker's also as an id alone, which it takes the whole message
-- for. Nothing is changed where publishing is refused. Takes asynq's channel and ours, and the message for
-- ours if the run is ours and if it is not.
-- Returns 0 done; 1 there is no such task; 2 it is not active.
local task = read('HMGET', T .. id, 'state', 'tmx_run') or {}
if not task[1] then return 1 end
if task[1] ~= 'active' then return 2 end
local score = redis.call('ZSCORE', P .. 'lease', id)
local ours = score and task[2] and holds_run(task[2], string.sub(task[2], 1, 16), score)
redis.call('ZREM', P .. 'tmx:due', '')
local told = redis.pcall('PUBLISH', channel, ours and message_to_ours or message_to_others)
if not ours and type(told) == 'number' then told = redis.pcall('PUBLISH', plain_channel, id) end
if type(told) ~= 'number' then return told end
redis.call('HSET', T .. id, 'tmx_cancel', mode)
return 0
