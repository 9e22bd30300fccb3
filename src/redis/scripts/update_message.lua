-- uses: one_queue clock read

-- Replaces a message if it still is the one that was read.
-- KEYS: the queue's. ARGV: now, id, old message, new message.
-- Returns 0 done; 1 there is no such task; 2 its state does not allow it; 3 it has changed.
local task = read('HMGET', T .. ARGV[3], 'state', 'msg') or {}
if not task[2] then return 1 end
local state = task[1]
if state ~= 'pending' and state ~= 'scheduled' and state ~= 'retry' and state ~= 'archived' then return 2 end
if task[2] ~= ARGV[4] then return 3 end
redis.call('ZREM', P .. 'tmx:due', '')
redis.call('HSET', T .. ARGV[3], 'msg', ARGV[5])
return 0
