-- uses: one_queue clock read fence give_up_run many due_life tail splice statistics locks
-- args:
-- each run remove: action='d' id token
-- each run complete: action='c' id token facts head tail retention_seconds
-- each run retry: action='r' id token facts head tail delay failed
-- each run archive: action='a' id token facts head tail
-- each run snooze: action='s' id token facts snoozed_for
-- each run give_back: action='q' id token facts
-- each run result: action='=' result
-- each run lock: action='!' lock

-- Ends runs of one queue, each if and only if its token is the present one:
--     remove     deletes the task; counts as processed
--     complete   keeps it as completed for the given number of seconds
--     retry      moves it to retry; failed is 0 or 1; a delay of 0 moves it to the back of pending, -1 to the front
--     archive    archives it
--     snooze     schedules it again
--     give_back  returns it to the front of pending
-- A result and a lock may precede any of these, in this order. Head and tail are the message before and after its time
-- in seconds. If the head begins with `+` (as no message does), they are appended to the stored message: a reader uses
-- the last value of a field. Facts are '' if they do not change; else they replace the first three words. Returns {1 or
-- 0 (the caller does not own it) for each run, error of the counters or '', now}.
local call = redis.call
local width = {
  d = run_remove_width, c = run_complete_width, r = run_retry_width, a = run_archive_width, s = run_snooze_width,
  q = run_give_back_width,
}
local goal = {c = 'completed', r = 'retry', a = 'archived', s = 'scheduled'}
local starts, ids, number, results, locks = {}, {}, 0, {}, {}
do
  local at = run_first
  while at <= #ARGV do
    number = number + 1
    local action = ARGV[at + run_action]
    if action == '=' then
      results[number] = ARGV[at + run_result]
      at = at + run_result_width
      action = ARGV[at + run_action]
    end
    if action == '!' then
      locks[number] = ARGV[at + run_lock]
      at = at + run_lock_width
      action = ARGV[at + run_action]
    end
    starts[number], ids[number] = at, ARGV[at + run_id]
    at = at + width[action]
    if goal[action] then
      call('ZCARD', P .. goal[action])
      goal[action] = nil
    end
  end
end
local active = call('LLEN', P .. 'active')
call('LLEN', P .. 'pending')
call('ZCARD', P .. 'tmx:due')
local leases = call('ZMSCORE', P .. 'lease', unpack(ids))
call('ZREM', P .. 'lease', '')

-- Runs end in about the order in which they began, so the end of active contains most of a batch.
local window, fences = {}, {}
if #ids >= 4 then window = tail(P, 'active', #ids + 32, {'tmx_run'}) end
for i = 1, #window, 2 do fences[window[i]] = window[i + 1] or nil end

-- Determines ownership of the runs and of the locks before anything is changed.
local own, locked, done = {}, {}, {}
for n = 1, number do
  local id, score = ids[n], leases[n]
  if score and not done[id] then
    local fence = fences[id]
    if fence == nil then fence = read('HGET', T .. id, 'tmx_run') end
    if holds_run(fence, ARGV[starts[n] + run_token], score) then
      own[n], done[id] = true, true
      locked[n] = locks[n] and holds(locks[n], id)
    end
  end
end

-- Removes ids from active: those in the window together, the others one by one.
local function leave_active(ended)
  local removed, kept, popped, unmoved, left = {}, {}, 0, 0, 0
  for i = 1, #window, 2 do
    local id = window[i]
    if done[id] and not removed[id] then
      removed[id] = true
      popped = (i + 1) / 2
      unmoved = left
    else
      left = left + 1
      kept[left] = id
    end
  end
  if popped > 0 and popped == active then
    -- The list must not disappear in between: in a slot that is being migrated it could not be created again.
    while #kept > unmoved do table.remove(kept) end
    many('LPUSH', P .. 'active', kept)
    call('RPOP', P .. 'active', popped)
  elseif popped > 0 then
    call('RPOP', P .. 'active', popped)
    local back = {}
    for n = unmoved, 1, -1 do back[#back + 1] = kept[n] end
    many('RPUSH', P .. 'active', back)
  end
  -- Ids outside the window began later; tasks that run long may lie between them and the tail.
  local from = #window > 0 and 1 or -1
  for n = 1, #ended do
    if not removed[ended[n]] then call('LREM', P .. 'active', from, ended[n]) end
  end
end

-- Adds the id to a sorted set by time, rounded up to a second, and the precise time to tmx:due.
local writes_due = false
local function wait_in(name, id, delay)
  local due = now + delay
  local score = seconds_up(due)
  call('ZADD', P .. name, score, id)
  if score * 1000000 ~= due then
    call('ZADD', P .. 'tmx:due', due, id)
    writes_due = true
  end
end

local replies, ended, gone = {}, {}, {}
local processed, failed, ended_count, gone_count = 0, 0, 0, 0
for n = 1, number do
  if own[n] then
    local id, at = ids[n], starts[n]
    local action, key = ARGV[at + run_action], T .. id
    replies[n] = 1
    ended_count = ended_count + 1
    ended[ended_count] = id
    if locked[n] then
      gone_count = gone_count + 1
      gone[gone_count] = locks[n]
    end
    if action == 'd' then
      gone_count = gone_count + 1
      gone[gone_count] = key
      processed = processed + 1
    else
      local facts = ARGV[at + run_facts]
      local state
      if action == 'c' then
        state = 'completed'
        call('ZADD', P .. 'completed', seconds_up(now) + tonumber(ARGV[at + run_retention_seconds]), id)
        processed = processed + 1
      elseif action == 'r' then
        state = 'retry'
        local delay = tonumber(ARGV[at + run_delay])
        if delay > 0 then
          wait_in('retry', id, delay)
        else
          state = 'pending'
          call(delay < 0 and 'RPUSH' or 'LPUSH', P .. 'pending', id)
        end
        if ARGV[at + run_failed] == '1' then
          processed = processed + 1
          failed = failed + 1
        end
      elseif action == 'a' then
        state = 'archived'
        call('ZADD', P .. 'archived', now_s, id)
        processed = processed + 1
        failed = failed + 1
      elseif action == 's' then
        state = 'scheduled'
        wait_in('scheduled', id, tonumber(ARGV[at + run_snoozed_for]))
      else
        state = 'pending'
        call('RPUSH', P .. 'pending', id)
      end
      local fields = {'state', state}
      if action ~= 's' and action ~= 'q' then
        local head = ARGV[at + run_head]
        if string.byte(head) == 43 then head = (call('HGET', key, 'msg') or '') .. string.sub(head, 2) end
        fields[#fields + 1] = 'msg'
        fields[#fields + 1] = head .. stamp .. ARGV[at + run_tail]
      end
      if results[n] then
        fields[#fields + 1] = 'result'
        fields[#fields + 1] = results[n]
      end
      if state == 'pending' then
        fields[#fields + 1] = 'pending_since'
        fields[#fields + 1] = now_ns
      end
      if facts ~= '' then
        fields[#fields + 1] = 'tmx_facts'
        fields[#fields + 1] = facts .. (string.match(call('HGET', key, 'tmx_facts') or '', '^%d+ %d+ %d+(.*)$') or '')
      end
      call('HSET', key, unpack(fields))
      if action == 'q' then
        give_up_run(key)
      else
        call('HDEL', key, 'tmx_run', 'tmx_cancel', 'tmx_wish', 'tmx_slow')
      end
    end
  else
    replies[n] = 0
  end
end
if writes_due then keep_due(P) end
leave_active(ended)
many('ZREM', P .. 'lease', ended)
remove_tasks(gone)
count(processed, failed)
return {replies, fault, now}
