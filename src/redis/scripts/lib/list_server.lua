-- uses: clock

-- Adds a server, or its table of workers, to a list for a number of seconds.
local function list_server(list, member, seconds)
  redis.call('ZREM', list, member)
  redis.call('ZADD', list, now_s + tonumber(seconds), member)
end
