-- uses: clock read due_of crashes_of many tail protobuf forward
-- args: lease_time token free bytes most_forwarded longest_before first_number
-- each queue: wanted

-- Moves due tasks to pending, and takes pending tasks under a lease; for several queues unless in a cluster; takes none
-- if the call is late. Arguments: the length of the lease, the first 12 of the 16 hex digits of the tokens, the number
-- of free workers, the maximum bytes of messages, the maximum number of due tasks to move in each queue, the bytes of
-- the longest message read recently, the number of the first run, and for each queue how many to take. Returns now; for
-- each queue {error or '', runs, next due time or nil, whether it may hold more, ids without a task, pairs of the
-- number of a run that is to be cancelled and the mode}; and the bytes of the longest message read. Runs are pairs: the
-- number of a run, and a list of it and the runs that follow it, each with four values: id, message, facts, since when
-- it was pending in ns. A token ends in the number of the run, as 4 hex digits.
local lease_end = text(seconds_up(now + tonumber(lease_time)))
free, bytes, most_forwarded = tonumber(free), tonumber(bytes), tonumber(most_forwarded)
first_number = tonumber(first_number)
local taken = 0
-- The maximum number of ids without a task that a call removes.
local danglers, most_danglers = 0, 1000
local call, format = redis.call, string.format

-- Returns whether the task must not be prefetched: a crash would end it before its only attempt, or it may have crashed
-- workers. Facts of 16 characters say that it may be prefetched. Otherwise max retry decides; fields are written in
-- ascending order, and if they are not, the task waits.
local function must_wait(message, facts)
  if facts and #facts == 16 then return false end
  if crashes_of(facts) > 0 then return true end
  local at, retries = 1, 0
  local tag, value
  while at <= #message do
    tag, value, at = field_at(message, at)
    if not tag or tag > 40 then break end
    if tag == 40 then retries = value end
  end
  return retries == 0 or retries >= 2147483648
end

-- Leases the tasks of `ids` to the caller's runs from number `taken` on. Those in `suspects` (by id; nil for none) are
-- marked as not begun, and those beyond the free workers as prefetched.
local function lease(P, ids, suspects, wishes)
  local T, fence_end, leases = P .. 't:', ' ' .. lease_end .. ' ' .. now_text, {}
  for n = 1, #ids do
    leases[2 * n - 1] = lease_end
    leases[2 * n] = ids[n]
  end
  many('LPUSH', P .. 'active', ids)
  many('ZADD', P .. 'lease', leases)
  for n = 1, #ids do
    local key = T .. ids[n]
    local run = token .. format('%04x', first_number + taken) .. fence_end
    if taken >= free then
      run = run .. ' a'
    elseif suspects and suspects[ids[n]] then
      run = run .. ' s'
    end
    call('HSET', key, 'state', 'active', 'tmx_run', run)
    -- A cancellation request for an earlier run (perhaps of a Go worker) does not apply to this run, unless the earlier
    -- one was given back before it had begun.
    if call('HDEL', key, 'pending_since', 'tmx_cancel') > 1 then
      local wish = call('HGET', key, 'tmx_wish')
      if wish then
        call('HSET', key, 'tmx_cancel', wish)
        call('HDEL', key, 'tmx_wish')
        wishes[#wishes + 1] = first_number + taken
        wishes[#wishes + 1] = wish
      end
    end
    taken = taken + 1
  end
end

-- The number of messages read at once grows while they are small.
local function at_once(most, longest) return math.max(1, math.min(most, math.floor(1000000 / (longest + 1)))) end

local chunk, longest = at_once(8, tonumber(longest_before)), 0
local fields = {'msg', 'tmx_facts', 'pending_since'}

local function take(queue, count)
  local P, seen = queue.P, queue.seen
  while count > 0 and bytes > 0 and danglers < most_danglers and not queue.stopped and not queue.empty do
    local asked = math.min(count, chunk, most_danglers - danglers)
    local found = tail(P, 'pending', asked, fields)
    local size = #found
    if size == 0 then
      queue.empty = true
      return
    end
    call('LLEN', P .. 'active')
    call('ZCARD', P .. 'lease')
    -- The tasks that are taken move to the front of the found ones.
    local ids, number, dangling, popped, suspects = {}, 0, {}, 0, nil
    for i = 1, size, 4 do
      local id, message, facts = found[i], found[i + 1], found[i + 2]
      if message and #message > longest then longest = #message end
      if not message and not seen[id] then read('HGET', P .. 't:' .. id, 'msg') end
      if not message or seen[id] then
        if not seen[id] then dangling[#dangling + 1] = id end
      elseif taken + number >= free and must_wait(message, facts) then
        queue.stopped = true
        break
      elseif taken + number > 0 and #message > bytes then
        queue.stopped = true
        break
      else
        bytes = bytes - #message
        if number < popped then
          local to = 4 * number
          found[to + 1], found[to + 2], found[to + 3], found[to + 4] = id, message, facts, found[i + 3]
        end
        number = number + 1
        ids[number] = id
        if facts and #facts ~= 16 and crashes_of(facts) > 0 then
          suspects = suspects or {}
          suspects[id] = true
        end
      end
      seen[id] = true
      popped = popped + 1
    end
    if popped > 0 then
      for i = size, 4 * number + 1, -1 do found[i] = nil end
      local first, last = taken, #queue.runs
      call('RPOP', P .. 'pending', popped)
      queue.empty = popped == size / 4 and popped < asked
      lease(P, ids, suspects, queue.wishes)
      -- Only now does the caller own them: a server that refuses writes stops this before.
      queue.runs[last + 1], queue.runs[last + 2] = first_number + first, found
      for _, id in ipairs(dangling) do queue.dangling[#queue.dangling + 1] = id end
      danglers = danglers + #dangling
    end
    count = count - number
    chunk = at_once(math.min(8 * chunk, 200), longest)
  end
end

local function serve(queue, count)
  if queue.error ~= '' or queue.paused or queue.stopped or queue.empty then return end
  local ok, problem = pcall(take, queue, count)
  if not ok then queue.error = type(problem) == 'table' and problem.err or tostring(problem) end
end

-- A call is short even if many queues have many due tasks: the rest follows with the next call. Half of what a call
-- moves is reserved in equal parts for the queues that follow, at least one task for each, so that no queue starves the
-- last one.
local forwards = 5 * most_forwarded
local part = math.max(1, math.floor(forwards / 2 / #KEYS))
local queues, wanted = {}, 0
for n = 1, #KEYS do
  local P = string.sub(KEYS[n], 1, -8)
  local queue = {P = P, error = '', runs = {}, wishes = {}, dangling = {}, seen = {}, more = false}
  local at = queue_first + (n - 1) * queue_width
  local count = late and 0 or tonumber(ARGV[at + queue_wanted])
  queues[n] = queue
  local ok, problem = pcall(function()
    local due = nil
    if call('EXISTS', P .. 'scheduled', P .. 'retry', P .. 'tmx:due') > 0 then
      local moved, dropped
      moved, dropped, due, queue.more = forward(P, math.min(most_forwarded, forwards - part * (#KEYS - n)))
      forwards = forwards - moved - dropped
    end
    queue.empty = call('LLEN', KEYS[n]) == 0
    if queue.empty and not due then return end
    queue.paused = call('EXISTS', P .. 'paused') == 1
    if queue.paused then
      queue.more = false
    else
      queue.due = due
    end
  end)
  if not ok then queue.error = type(problem) == 'table' and problem.err or tostring(problem) end
  wanted = wanted + count
  serve(queue, count)
end
for _, queue in ipairs(queues) do
  if taken >= wanted then break end
  serve(queue, wanted - taken)
end

local reply = {now}
for n, queue in ipairs(queues) do
  if queue.error == '' and not queue.paused and not queue.empty and redis.pcall('LLEN', KEYS[n]) ~= 0 then
    queue.more = true
  end
  local leftovers = {}
  for i, id in ipairs(queue.dangling) do leftovers[i] = queue.P .. 't:' .. id end
  pcall(remove_leftovers, leftovers)
  reply[n + 1] = {queue.error, queue.runs, queue.due or false, queue.more and 1 or 0, queue.dangling,
      queue.wishes}
end
reply[#reply + 1] = longest
return reply
