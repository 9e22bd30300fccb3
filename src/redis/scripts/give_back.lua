-- uses: clock read many splice give_up_run
-- args: age sent_at
-- each call: block carried

-- Returns the tasks that lost calls took to the front of pending, as if they had not been taken; for several queues
-- unless in a cluster. Exception: if a task is all that a call took, and its message is longer than the call could
-- carry, it moves to the back, so that others come first. The third time it is archived; the reason is appended to its
-- message, since a reader uses the last value of a field: the message itself is not decoded. Arguments: the age of the
-- oldest call; when it was sent, by the clock at that time ('' if not known); for each call the first 12 hex digits of
-- its tokens, and the bytes that it could carry ('' if that was not why it was lost). Returns for each queue {error or
-- '', number of tasks, list of id, bytes and count for those that were too long}.
local call = redis.call
-- The clock may have jumped since then, in either direction.
local since = math.min(now - tonumber(age), tonumber(sent_at) or now) - 1000000
local blocks, counts = {}, {}
for at = call_first, #ARGV, call_width do
  local block = ARGV[at + call_block]
  blocks[block] = tonumber(ARGV[at + call_carried]) or math.huge
  counts[block] = 0
end

-- Returns the runs of the calls, the newest first. The head of active holds the most recently taken ids, so only those
-- taken since the first of the calls need to be examined.
local function runs_of(P)
  local ids, owners, chunk = {}, {}, 200
  for at = 0, 4999, chunk do
    local found, older = call('LRANGE', P .. 'active', at, at + chunk - 1), false
    if #found == 0 then return ids, owners end
    local scores = call('ZMSCORE', P .. 'lease', unpack(found))
    for n, id in ipairs(found) do
      local run = scores[n] and read('HGET', P .. 't:' .. id, 'tmx_run')
      local token, score, taken = string.match(run or '', '^(%x+) (%d+) (%d+)')
      if token and score == scores[n] then
        local block = string.sub(token, 1, 12)
        if blocks[block] then
          ids[#ids + 1], owners[#owners + 1] = id, block
          counts[block] = counts[block] + 1
        elseif tonumber(taken) < since then
          older = true
        end
      end
    end
    if older then return ids, owners end
  end
  return ids, owners
end

-- Field 7 is the last error, field 11 its time.
local function archive(P, id, key, message)
  local reason = 'its message of ' .. #message .. ' bytes is too large for the connection of a worker to the broker'
  message = message .. '\58' .. string.char(#reason) .. reason .. '\88' .. stamp
  call('HSET', key, 'state', 'archived', 'msg', message)
  call('HDEL', key, 'tmx_run', 'tmx_cancel', 'tmx_wish', 'tmx_slow')
  call('ZADD', P .. 'archived', now_s, id)
end

local function give_back(P, ids, owners)
  local first, too_long = {}, {}
  call('LLEN', P .. 'pending')
  call('ZCARD', P .. 'archived')
  call('ZREM', P .. 'lease', '')
  for n, id in ipairs(ids) do
    local key, most, message, times = P .. 't:' .. id, blocks[owners[n]], nil, 0
    if most < math.huge and counts[owners[n]] == 1 then message = call('HGET', key, 'msg') end
    if message and #message > most then
      times = (tonumber(call('HGET', key, 'tmx_slow') or '') or 0) + 1
      for _, value in ipairs({id, #message, times}) do too_long[#too_long + 1] = value end
    end
    call('LREM', P .. 'active', 1, id)
    if times >= 3 then
      archive(P, id, key, message)
    else
      give_up_run(key)
      call('HSET', key, 'state', 'pending', 'pending_since', now_ns)
      if times > 0 then
        call('HSET', key, 'tmx_slow', times)
        call('LPUSH', P .. 'pending', id)
      else
        first[#first + 1] = id
      end
    end
  end
  many('ZREM', P .. 'lease', ids)
  many('RPUSH', P .. 'pending', first)
  return {'', #ids, too_long}
end

-- The runs of all queues are counted before anything is given back.
local reply, found = {}, {}
local function try(n, work, ...)
  local ok, result, more = pcall(work, string.sub(KEYS[n], 1, -8), ...)
  if ok then return result, more end
  reply[n] = {type(result) == 'table' and result.err or tostring(result), 0, {}}
end
for n = 1, #KEYS do found[n] = {try(n, runs_of)} end
for n = 1, #KEYS do
  if not reply[n] then reply[n] = try(n, give_back, unpack(found[n])) or reply[n] end
end
return reply
