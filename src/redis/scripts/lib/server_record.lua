-- uses: clock

-- Lists a server, or its table of workers, for so many seconds; and writes what it tells of itself:
-- its record and, from ARGV[at] on, task id and record of each of its workers.
local function list_server(list, member, seconds)
  redis.call('ZREM', list, member)
  redis.call('ZADD', list, now_s + tonumber(seconds), member)
end

local function write_server(record, workers, seconds, bytes, at)
  redis.call('DEL', workers)
  redis.call('SET', record, bytes, 'EX', seconds)
  for n = at, #ARGV, 2 do redis.call('HSET', workers, ARGV[n], ARGV[n + 1]) end
  redis.call('EXPIRE', workers, seconds)
end
