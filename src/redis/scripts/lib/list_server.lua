-- uses: clock

-- Lists a server, or its table of workers, for so many seconds.
local function list_server(list, member, seconds)
  redis.call('ZREM', list, member)
  redis.call('ZADD', list, now_s + tonumber(seconds), member)
end
