-- uses: one_queue clock read crashes_of protobuf locks

-- act(id, action, lock) acts on a task that is in no container any more; detach(id, state, group) removes it from its
-- container, and returns whether it could. For the action `remove`, lock_of(id) is called before.
local allowed = {
  run = {scheduled = true, retry = true, archived = true, completed = true},
  archive = {pending = true, scheduled = true, retry = true, completed = true},
  remove = {pending = true, scheduled = true, retry = true, archived = true, completed = true, aggregating = true},
}

local function detach(id, state, group)
  if state == 'pending' then
    redis.call('LREM', P .. 'pending', 0, id)
  elseif state == 'aggregating' then
    local key = P .. 'g:' .. (group or '')
    redis.call('SCARD', P .. 'groups')
    if redis.call('ZREM', key, id) == 0 then return false end
    if redis.call('EXISTS', key) == 0 then redis.call('SREM', P .. 'groups', group) end
  else
    redis.call('ZREM', P .. state, id)
    redis.call('ZREM', P .. 'tmx:due', id)
  end
  return true
end

-- Returns the lock that a task holds, if any. asynq writes no such field for a task that it adds to a group: then the
-- lock is in the message, which may be large and is not read for other tasks.
local function lock_of(id)
  local task = read('HMGET', T .. id, 'unique_key', 'group') or {}
  local lock = task[1]
  if not lock and task[2] then
    local message = redis.call('HGET', T .. id, 'msg')
    lock = message and last_field(message, 82)
  end
  if type(lock) == 'string' and string.sub(lock, 1, #P + 7) == P .. 'unique:' and holds(lock, id) then return lock end
end

local function act(id, action, lock)
  local key = T .. id
  if action == 'run' then
    redis.call('LPUSH', P .. 'pending', id)
    redis.call('HSET', key, 'state', 'pending', 'pending_since', now_ns)
    local facts = redis.call('HGET', key, 'tmx_facts')
    if crashes_of(facts) > 0 then
      redis.call('HSET', key, 'tmx_facts', (string.gsub(facts, '^(%d+ %d+) %d+', '%1 0')))
    end
  elseif action == 'archive' then
    redis.call('ZADD', P .. 'archived', now_s, id)
    redis.call('HSET', key, 'state', 'archived')
    redis.call('HDEL', key, 'pending_since', 'tmx_cancel', 'tmx_wish')
  else
    if lock then redis.call('DEL', lock) end
    redis.call('UNLINK', key)
  end
end

redis.call('LLEN', P .. 'pending')
redis.call('ZCARD', P .. 'archived')
redis.call('ZCARD', P .. 'tmx:due')
