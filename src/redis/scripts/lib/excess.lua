-- uses: clock

-- excess(archived): how many tasks of an archive are beyond its limits. ARGV: now, how many tasks an
-- archive may hold, for how long it may hold one.
local max_tasks = tonumber(ARGV[3])
local oldest_allowed = string.format('(%.6f', (now - tonumber(ARGV[4])) / 1000000)

local function excess(archived)
  local too_old = redis.call('ZCOUNT', archived, '-inf', oldest_allowed)
  return math.max(redis.call('ZCARD', archived) - max_tasks, too_old, 0)
end
