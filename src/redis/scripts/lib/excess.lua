-- uses: clock

-- oldest_within(max_age): the score from which on an archive may hold tasks, as excess() takes it.
local function oldest_within(max_age) return string.format('(%.6f', (now - tonumber(max_age)) / 1000000) end

-- excess(archived, max_tasks, oldest): how many tasks of an archive are beyond its limits.
local function excess(archived, max_tasks, oldest)
  local too_old = redis.call('ZCOUNT', archived, '-inf', oldest)
  return math.max(redis.call('ZCARD', archived) - max_tasks, too_old, 0)
end
