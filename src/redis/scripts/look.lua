-- uses: clock due_of

-- Tells how queues stand, by reading alone; of several queues unless in a cluster. Redis tracks for
-- a script the keys that are declared, or that it reads, according to its version: so all are both.
-- KEYS: for each queue its paused, pending, scheduled, retry, tmx:due, tmx:canary. ARGV: now. Returns now, and
-- for each queue when something is due, 0 if something is ready, or nil. A key of the wrong type is for
-- acquire to complain of.
local reply = {now}

local function head_of(key, unit)
  local head = redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not head[2] then return nil end
  return unit == 1 and math.min(math.floor(tonumber(head[2])), 8990000000000000) or due_of(head[2])
end

for n = 1, #KEYS, 6 do
  local paused = redis.pcall('EXISTS', KEYS[n], KEYS[n + 5]) == 1
  local pending = redis.pcall('LLEN', KEYS[n + 1])
  local due = head_of(KEYS[n + 2], 1000000)
  for at, unit in pairs({[n + 3] = 1000000, [n + 4] = 1}) do
    local head = head_of(KEYS[at], unit)
    if head and (not due or head < due) then due = head end
  end
  if paused then
    due = false
  elseif type(pending) == 'number' and pending > 0 or due and due <= now then
    due = 0
  end
  reply[#reply + 1] = due or false
end
return reply
