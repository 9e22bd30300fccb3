-- uses: clock

-- oldest_within(max_age): the score from which on an archive may hold tasks, as excess() takes it.
local function oldest_within(max_age) return string.format('(%.6f', (now - tonumber(max_age)) / 1000000) end

-- excess(archived, max_tasks, oldest): how many tasks of an archive are beyond its limits.
local function excess(archived, max_tasks, oldest)
  local size = redis.call('ZCARD', archived)
  if size == 0 then return 0 end
  return math.max(size - max_tasks, redis.call('ZCOUNT', archived, '-inf', oldest))
end
