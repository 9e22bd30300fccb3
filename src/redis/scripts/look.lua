-- uses: clock due_of
-- keys:
-- each queue: paused pending scheduled retry due canary
-- args:

-- Tells how queues stand, by reading alone; of several queues unless in a cluster. Redis tracks for
-- a script the keys that are declared, or that it reads, according to its version: so all are both.
-- Returns now, and
-- for each queue when something is due, 0 if something is ready, or nil. A key of the wrong type is for
-- acquire to complain of.
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
