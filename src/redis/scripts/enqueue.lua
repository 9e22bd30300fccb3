-- uses: one_queue clock read many due_life
-- args: needs
-- each task plain: id message kind=''
-- each task special: id message kind='x' lock lock_seconds due expires retries remembered_seconds

-- Enqueues tasks of one queue. `needs` says what any task needs (r: its id is to be remembered; d: it may be due
-- later). A special task has the key of its lock ('': none), the seconds of the lock after the due time, when it is due
-- and when it expires ('': none; an instant; or `+` and a delay), whether it may be retried (0 or 1), and for how many
-- seconds its id is to be remembered (0: not). Returns for each task: 0 it is pending; -1 the lock is held; -2 the id
-- exists; -3 Redis is full (only if ids are remembered: else the whole call is refused); -4 the id is remembered; else
-- it is scheduled, and this is when it is due. asynq takes the lock before it checks the id, and so leaks it.
local call = redis.call
call('LLEN', P .. 'pending')
local remembers = string.find(needs, 'r', 1, true)
if remembers then call('ZCARD', P .. 'tmx:ids') end
if string.find(needs, 'd', 1, true) then
  call('ZCARD', P .. 'scheduled')
  call('ZCARD', P .. 'tmx:due')
end

local function instant(argument)
  if argument == '' then return nil end
  if string.byte(argument) == 43 then return now + tonumber(argument) end
  return tonumber(argument)
end

-- Tries the first write, the only one of a script that a full Redis refuses: remembered ids must get their reply even
-- then.
local full, written = false, false
local function is_full(key, message)
  if full or written then return full end
  local reply = redis.pcall('HSET', key, 'msg', message)
  local problem = type(reply) == 'table' and reply.err
  if not problem then
    written = true
  elseif string.find(problem, 'OOM', 1, true) == 1 then
    full = true
  else
    error(problem, 0)
  end
  return full
end

local function is_remembered(id)
  local over = call('ZSCORE', P .. 'tmx:ids', id)
  return over and tonumber(over) > now
end

local replies, pending, at, writes_due = {}, {}, task_first, false
while at <= #ARGV do
  local id, message = ARGV[at + task_id], ARGV[at + task_message]
  local lock, ttl, due, facts = '', nil, now, now_text
  local idempotent_for, outcome = 0, 0
  if ARGV[at + task_kind] == '' then
    at = at + task_plain_width
  else
    lock, ttl = ARGV[at + task_lock], ARGV[at + task_lock_seconds]
    due = instant(ARGV[at + task_due]) or now
    local expires = instant(ARGV[at + task_expires])
    if expires or ARGV[at + task_retries] == '0' then facts = string.format('%016.0f %.0f 0', now, expires or 0) end
    idempotent_for = tonumber(ARGV[at + task_remembered_seconds])
    at = at + task_special_width
  end
  local key = T .. id
  if idempotent_for > 0 and is_remembered(id) then
    outcome = -4
  elseif call('EXISTS', key) == 1 then
    outcome = -2
  elseif lock ~= '' and call('EXISTS', lock) == 1 then
    outcome = -1
  elseif remembers and is_full(key, message) then
    outcome = -3
  else
    if due > now then
      local score = seconds_up(due)
      call('HSET', key, 'msg', message, 'state', 'scheduled', 'tmx_facts', facts)
      call('ZADD', P .. 'scheduled', score, id)
      if score * 1000000 ~= due then
        call('ZADD', P .. 'tmx:due', due, id)
        writes_due = true
      end
      outcome = due
    else
      call('HSET', key, 'msg', message, 'state', 'pending', 'pending_since', now_ns, 'tmx_facts', facts)
      pending[#pending + 1] = id
    end
    if lock ~= '' then
      ttl = tonumber(ttl)
      if due > now then ttl = ttl + seconds_up(due - now) end
      call('SET', lock, id, 'EX', ttl)
      call('HSET', key, 'unique_key', lock)
    end
    if idempotent_for > 0 then call('ZADD', P .. 'tmx:ids', text(now + idempotent_for * 1000000), id) end
  end
  replies[#replies + 1] = outcome
end
many('LPUSH', P .. 'pending', pending)
if writes_due then keep_due(P) end
-- More than were added, so that expired ids do not accumulate in a queue without upkeep. Setting the expiry always
-- writes, so that WAIT after a repeated call waits for what the first call wrote.
if remembers then
  local over = call('ZRANGEBYSCORE', P .. 'tmx:ids', '-inf', now_text, 'LIMIT', 0, 2 * #replies)
  many('ZREM', P .. 'tmx:ids', over)
  local last = call('ZRANGE', P .. 'tmx:ids', -1, -1, 'WITHSCORES')[2]
  if last then call('PEXPIRE', P .. 'tmx:ids', math.ceil((tonumber(last) - now) / 1000)) end
end
return replies
