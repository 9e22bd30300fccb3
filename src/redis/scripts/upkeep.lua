-- uses: clock read fence due_of crashes_of many due_life forward
-- args: limit lease_time looks_for_lost bytes effort
-- each queue: block due_rank active_rank
-- each own: token

-- One step of upkeep; of several queues unless in a cluster.
-- Takes how much to do in each role of each queue at most, the length of the lease of lost runs that are
-- taken over, whether to look for them (0 or 1), the bytes of their messages at most, how much to do at
-- most in the call (a queue that was begun is finished), for each queue the first 12 hex digits of its
-- tokens and the ranks at which to go on checking tmx:due and active, and the tokens of runs that are the
-- caller's own. Returns now and, for each queue as far as the call came, at least one, {forwarded, expired, repaired, next due time or nil, whether there is more to do, a list of
-- lost runs as acquire's, numbered from 0, next rank in tmx:due, in active, errors of roles, for
-- each of the lost runs how far it had come (see begun_of in runs.hpp), whether tasks are ready, when the
-- first lease ends that may be a lost run's or nil, when something else is to be done or nil}.
limit, bytes, effort = tonumber(limit), tonumber(bytes), tonumber(effort)
local lease_end = text(seconds_up(now + tonumber(lease_time)))
local may_recover, any_lost = looks_for_lost == '1' and not late, false
local own = {}
for at = queue_first + #KEYS * queue_width, #ARGV do own[ARGV[at]] = true end
local P, T, block, due_rank, active_rank
local forwarded, expired, repaired, more, due, next_work, next_loss
local lost, lost_count, marks, errors

-- When the first entry of a zset is due, whose scores count seconds, or microseconds.
local function due_in(name, in_micros)
  local head = redis.call('ZRANGE', P .. name, 0, 0, 'WITHSCORES')
  if not head[2] then return nil end
  return in_micros and tonumber(head[2]) or due_of(head[2])
end

local function note_work(at)
  if at and (not next_work or at < next_work) then next_work = at end
end

-- Whether an entry of a zset is due. If not, notes when one is.
local function is_due(name, in_micros)
  local at = due_in(name, in_micros)
  if at and at <= now then return true end
  note_work(at)
  return false
end

local function expire_completed()
  if not is_due('completed') then return end
  local ids = redis.call('ZRANGEBYSCORE', P .. 'completed', '-inf', now_s, 'LIMIT', 0, limit)
  local keys = {}
  for n, id in ipairs(ids) do keys[n] = T .. id end
  effort = effort - #ids
  remove_tasks(keys)
  many('ZREM', P .. 'completed', ids)
  expired = #ids
  if is_due('completed') then more = true end
end

local function expire_ids()
  if not is_due('tmx:ids', true) then return end
  local ids = redis.call('ZRANGEBYSCORE', P .. 'tmx:ids', '-inf', now_text, 'LIMIT', 0, limit)
  effort = effort - #ids
  many('ZREM', P .. 'tmx:ids', ids)
  if is_due('tmx:ids', true) then more = true end
end

-- Removes entries that do not match a public score: tasks that others have moved.
local function check_due()
  local found = redis.call('ZRANGE', P .. 'tmx:due', due_rank, due_rank + limit - 1, 'WITHSCORES')
  local unmatched = {}
  effort = effort - #found / 2
  for i = 1, #found, 2 do
    if not source_of(P, found[i], tonumber(found[i + 1])) then unmatched[#unmatched + 1] = found[i] end
  end
  many('ZREM', P .. 'tmx:due', unmatched)
  if #found > 0 and redis.call('TTL', P .. 'tmx:due') < due_seconds / 2 then keep_due(P) end
  due_rank = #found == 2 * limit and due_rank + limit - #unmatched or 0
end

-- Removes an id in active that has no task.
local function forget(id)
  redis.call('LREM', P .. 'active', -1, id)
  redis.call('ZREM', P .. 'lease', id)
  remove_leftovers({T .. id})
  repaired = repaired + 1
end

-- `words` are those of tmx_run after the score, if they belong to the lost run.
local function take_over(id, task, words)
  bytes = bytes - #task[1]
  redis.call('ZREM', P .. 'lease', id)
  redis.call('ZADD', P .. 'lease', lease_end, id)
  if not words or words == '' then words = now_text end
  local run = block .. string.format('%04x', lost_count) .. ' ' .. lease_end .. ' ' .. words
  redis.call('HSET', T .. id, 'tmx_run', run)
  marks[#marks + 1] = string.match(words, '^%d* (%S+)') or ''
  for _, value in ipairs({id, task[1], task[2]}) do lost[#lost + 1] = value end
  lost_count = lost_count + 1
  any_lost = true
end

-- Returns whether there is room for one more lost run.
local function room_for(message)
  if lost_count < limit and (not any_lost or #message <= bytes) then return true end
  more = true
  return false
end

local function task_of(id)
  return read('HMGET', T .. id, 'msg', 'tmx_facts', 'state') or {}
end

-- Returns whether the caller owns it: its worker is alive, and will extend the lease if nobody takes it over.
local function is_own(id, score)
  if next(own) == nil then return false end
  local run = read('HGET', T .. id, 'tmx_run') or ''
  return own[string.sub(run, 1, 16)] and string.find(run, ' ' .. score .. ' ', 17, true) == 17
end

-- Ours a second after the lease has ended, others' after 30, as asynq does.
local function take_over_lost()
  local found = redis.call('ZRANGEBYSCORE', P .. 'lease', '-inf', now_s - 1, 'WITHSCORES', 'LIMIT', 0, 1000)
  effort = effort - #found / 2
  for i = 1, #found, 2 do
    local id, score = found[i], found[i + 1]
    local words = words_after(read('HGET', T .. id, 'tmx_run'), score)
    if read('HEXISTS', T .. id, 'msg') ~= 1 then
      forget(id)
    elseif words or tonumber(score) <= now_s - 30 then
      local task = task_of(id)
      if task[3] ~= 'active' then
        redis.call('LREM', P .. 'active', -1, id)
        redis.call('ZREM', P .. 'lease', id)
        repaired = repaired + 1
      elseif not is_own(id, score) then
        if not room_for(task[1]) then return end
        take_over(id, task, words)
      end
    end
  end
end

local function note_next_loss()
  local at = due_in('lease')
  next_loss = at and at + 1000000
end

local function recover()
  note_next_loss()
  if not may_recover or not next_loss or next_loss > now then return end
  take_over_lost()
  note_next_loss()
end

-- What no lease covers.
local function check_active()
  local ids = redis.call('LRANGE', P .. 'active', -(active_rank + limit), -(active_rank + 1))
  if #ids == 0 then
    active_rank = 0
    return
  end
  effort = effort - #ids
  local leases, removed = redis.call('ZMSCORE', P .. 'lease', unpack(ids)), 0
  for n, id in ipairs(ids) do
    if not leases[n] then
      local task = task_of(id)
      if not task[1] then
        forget(id)
        removed = removed + 1
      elseif task[3] ~= 'active' then
        redis.call('LREM', P .. 'active', -1, id)
        repaired = repaired + 1
        removed = removed + 1
      elseif room_for(task[1]) then
        take_over(id, task)
        repaired = repaired + 1
      end
    end
  end
  active_rank = #ids == limit and active_rank + limit - removed or 0
end

-- Sets whose aggregation did not end in time return to their group, a large one in parts.
local function reclaim_groups()
  if not is_due('aggregation_sets') then return end
  local sets = redis.call('ZRANGEBYSCORE', P .. 'aggregation_sets', '-inf', now_s, 'LIMIT', 0, 10)
  for _, set in ipairs(sets) do
    local group = string.match(set, '^(.*):[^:]*$')
    local stem = P .. 'g:'
    local ours = group and #group > #stem and string.sub(group, 1, #stem) == stem
    if ours then
      redis.call('ZCARD', set)
      redis.call('ZCARD', group)
      redis.call('SCARD', P .. 'groups')
    end
    local back = ours and redis.call('ZRANGE', set, 0, 999, 'WITHSCORES') or {}
    local ids, entries = {}, {}
    for i = 1, #back, 2 do
      ids[#ids + 1] = back[i]
      entries[i], entries[i + 1] = back[i + 1], back[i]
    end
    effort = effort - #ids
    many('ZREM', set, ids)
    if #ids > 0 then
      for first = 1, #entries, 500 do
        redis.call('ZADD', group, 'LT', unpack(entries, first, math.min(first + 499, #entries)))
      end
      redis.call('SADD', P .. 'groups', string.sub(group, #stem + 1))
      repaired = repaired + 1
    end
    if #ids == 1000 then
      more = true
    else
      redis.call('ZREM', P .. 'aggregation_sets', set)
    end
  end
  if is_due('aggregation_sets') then more = true end
end

local function role(work)
  local ok, problem = pcall(work)
  if not ok then errors[#errors + 1] = type(problem) == 'table' and problem.err or tostring(problem) end
end

local function has_nothing()
  return redis.call('EXISTS', P .. 'pending', P .. 'scheduled', P .. 'retry', P .. 'tmx:due', P .. 'lease', P .. 'active',
      P .. 'completed', P .. 'tmx:ids', P .. 'aggregation_sets') == 0
end

local function step(n)
  P = string.sub(KEYS[n], 1, -8)
  if has_nothing() then return {0, 0, 0, false, 0, {}, 0, 0, {}, {}, 0, false, false} end
  T = P .. 't:'
  local at = queue_first + (n - 1) * queue_width
  block = ARGV[at + queue_block]
  due_rank, active_rank = tonumber(ARGV[at + queue_due_rank]), tonumber(ARGV[at + queue_active_rank])
  forwarded, expired, repaired, more, due, next_work, next_loss = 0, 0, 0, false, nil, nil, nil
  lost, lost_count, marks, errors = {}, 0, {}, {}
  local paused, ready = redis.call('EXISTS', P .. 'paused') == 1, false
  role(expire_completed)
  role(expire_ids)
  role(check_due)
  role(recover)
  if may_recover then role(check_active) end
  role(reclaim_groups)
  role(function()
    local dangling, unfinished
    forwarded, dangling, due, unfinished = forward(P, limit)
    effort = effort - forwarded - dangling
    repaired = repaired + dangling
    if unfinished then more = true end
    note_work(due)
    ready = redis.call('LLEN', P .. 'pending') > 0
  end)
  if paused then due, ready = nil, false end
  return {forwarded, expired, repaired, due or false, more and 1 or 0, lost, due_rank,
      active_rank, errors, marks, ready and 1 or 0, next_loss or false, next_work or false}
end

local replies = {now}
for n = 1, #KEYS do
  replies[n + 1] = step(n)
  if effort <= 0 then break end
end
return replies
