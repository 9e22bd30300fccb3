-- uses: clock read due_of crashes_of many

-- forward(P, limit) moves up to `limit` due tasks, first of scheduled and then of retry, earliest first, to pending (or
-- back to their group): to the back, or to the front if their workers were lost. An entry of tmx:due is valid if and
-- only if, rounded up to a second, it equals the public score; entries that are due and invalid are removed. Returns
-- how many tasks were moved, how many ids without a task were removed, when the next one is due (or nil), and whether
-- that has passed because the limit was reached. A limit below 1 moves nothing.
local function source_of(P, id, micros)
  local score = text(seconds_up(micros))
  if redis.call('ZSCORE', P .. 'scheduled', id) == score then return 'scheduled' end
  if redis.call('ZSCORE', P .. 'retry', id) == score then return 'retry' end
end

local function next_due(P)
  local due = nil
  for _, name in ipairs({'scheduled', 'retry'}) do
    local head = redis.call('ZRANGE', P .. name, 0, 0, 'WITHSCORES')
    if head[1] then
      local at = due_of(head[2])
      if not due or at < due then due = at end
    end
  end
  for _ = 1, 100 do
    local head = redis.call('ZRANGE', P .. 'tmx:due', 0, 0, 'WITHSCORES')
    if not head[1] then break end
    local at = tonumber(head[2])
    if due and at >= due then break end
    if source_of(P, head[1], at) then
      due = at
      break
    end
    redis.call('ZREM', P .. 'tmx:due', head[1])
  end
  return due
end

local function due_tasks(P, limit)
  local tasks, seen = {}, {}
  for _, name in ipairs({'scheduled', 'retry'}) do
    local found = redis.call('ZRANGEBYSCORE', P .. name, '-inf', now_s, 'WITHSCORES', 'LIMIT', 0, limit)
    for i = 1, #found, 2 do
      local id, due = found[i], due_of(found[i + 1])
      local exact = tonumber(redis.call('ZSCORE', P .. 'tmx:due', id) or '')
      if exact and text(seconds_up(exact)) == found[i + 1] then due = exact end
      if not seen[id] then tasks[#tasks + 1] = {id, name, due} end
      seen[id] = true
    end
  end
  local unmatched = {}
  local found = redis.call('ZRANGEBYSCORE', P .. 'tmx:due', '-inf', now_text, 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #found, 2 do
    local id, due = found[i], tonumber(found[i + 1])
    if not seen[id] then
      local name = source_of(P, id, due)
      if name then
        tasks[#tasks + 1] = {id, name, due}
      else
        unmatched[#unmatched + 1] = id
      end
    end
  end
  table.sort(tasks, function(a, b)
    if a[2] ~= b[2] then return a[2] == 'scheduled' end
    if a[3] ~= b[3] then return a[3] < b[3] end
    return a[1] < b[1]
  end)
  while #tasks > limit do table.remove(tasks) end
  return tasks, unmatched
end

-- Returns the group that a task waited to join, if it can.
local function group_of(P, group)
  if group and group ~= '' and read('ZCARD', P .. 'g:' .. group) then return group end
end

local function forward(P, limit)
  local due = next_due(P)
  if not due or due > now then return 0, 0, due, false end
  if limit < 1 then return 0, 0, due, true end
  redis.call('LLEN', P .. 'pending')
  local tasks, unmatched = due_tasks(P, limit)
  local groups_are_listed = read('SCARD', P .. 'groups')
  local from, pending, here, leftovers = {scheduled = {}, retry = {}}, {}, {}, {}
  for _, task in ipairs(tasks) do
    local id, ids, due_at = task[1], from[task[2]], task[3]
    local key = P .. 't:' .. id
    ids[#ids + 1] = id
    unmatched[#unmatched + 1] = id
    if read('HEXISTS', key, 'msg') == 1 then
      local fields = redis.call('HMGET', key, 'group', 'tmx_facts')
      here[#here + 1] = {id, key, group_of(P, fields[1]), crashes_of(fields[2]) > 0, due_at}
    else
      leftovers[#leftovers + 1] = key
    end
  end
  many('ZREM', P .. 'scheduled', from.scheduled)
  many('ZREM', P .. 'retry', from.retry)
  many('ZREM', P .. 'tmx:due', unmatched)
  local suspects = {}
  for _, task in ipairs(here) do
    local id, key, group = task[1], task[2], task[3]
    if group then
      redis.call('ZADD', P .. 'g:' .. group, now_s, id)
      if groups_are_listed then redis.call('SADD', P .. 'groups', group) end
      redis.call('HSET', key, 'state', 'aggregating')
    else
      local line = task[4] and suspects or pending
      line[#line + 1] = id
      -- Pending since it was due, so that its lateness is visible.
      redis.call('HSET', key, 'state', 'pending', 'pending_since', text(task[5]) .. '000')
    end
  end
  many('LPUSH', P .. 'pending', pending)
  many('RPUSH', P .. 'pending', suspects)
  remove_leftovers(leftovers)
  due = next_due(P)
  return #here, #leftovers, due, due ~= nil and due <= now
end
