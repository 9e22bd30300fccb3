-- uses: one_queue clock read
-- args: id old_message new_message

-- Replaces a message if it still is the one that was read.
-- Returns 0 done; 1 there is no such task; 2 its state does not allow it; 3 it has changed.
local task = read('HMGET', T .. id, 'state', 'msg') or {}
if not task[2] then return 1 end
local state = task[1]
if state ~= 'pending' and state ~= 'scheduled' and state ~= 'retry' and state ~= 'archived' then return 2 end
if task[2] ~= old_message then return 3 end
redis.call('ZREM', P .. 'tmx:due', '')
redis.call('HSET', T .. id, 'msg', new_message)
return 0
