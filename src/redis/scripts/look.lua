-- uses: clock due_of
-- keys:
-- each queue: paused pending scheduled retry due canary
-- args:

-- Returns the state of queues, by reading only; for several queues unless in a cluster. Depending on its version, Redis
-- tracks for a script the keys that are declared or the keys that it reads: so all keys are both. Returns now, and for
-- each queue when a task is due, 0 if a task is ready, or nil. Errors of keys of the wrong type are reported by
-- acquire.
local reply = {now}

local function head_of(key, unit)
  local head = redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not head[2] then return nil end
  return unit == 1 and math.min(math.floor(tonumber(head[2])), 8990000000000000) or due_of(head[2])
end

local function due_in(n)
  local any = redis.pcall('EXISTS', KEYS[n + queue_paused], KEYS[n + queue_pending], KEYS[n + queue_scheduled],
      KEYS[n + queue_retry], KEYS[n + queue_due], KEYS[n + queue_canary])
  if any == 0 or redis.pcall('EXISTS', KEYS[n + queue_paused]) == 1 then return false end
  local pending = redis.pcall('LLEN', KEYS[n + queue_pending])
  local due = head_of(KEYS[n + queue_scheduled], 1000000)
  for at, unit in pairs({[n + queue_retry] = 1000000, [n + queue_due] = 1}) do
    local head = head_of(KEYS[at], unit)
    if head and (not due or head < due) then due = head end
  end
  if type(pending) == 'number' and pending > 0 or due and due <= now then return 0 end
  return due or false
end

for n = queue_first, #KEYS, queue_width do reply[#reply + 1] = due_in(n) end
return reply
