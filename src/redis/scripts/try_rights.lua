-- uses:
-- args:

-- Tries whether the user may run the commands that are needed to serve a queue, on a string that exists only during
-- this script: for most commands it has the wrong type, which is detected after the rights. Returns for each queue
-- {command, error} of all commands that failed in another way.
local commands = {
  {'LLEN'}, {'LRANGE', 0, 0}, {'LREM', 0, 'x'}, {'LPUSH', 'x'}, {'RPUSH', 'x'}, {'RPOP'},
  {'ZCARD'}, {'ZSCORE', 'x'}, {'ZMSCORE', 'x'}, {'ZRANGE', 0, 0}, {'ZRANGEBYSCORE', 0, 0}, {'ZCOUNT', 0, 0},
  {'ZADD', 1, 'x'}, {'ZREM', 'x'}, {'HGET', 'x'}, {'HMGET', 'x'}, {'HEXISTS', 'x'}, {'HSET', 'x', 'x'},
  {'HSETNX', 'x', 'x'}, {'HDEL', 'x'}, {'SCARD'}, {'SADD', 'x'}, {'SREM', 'x'}, {'EXISTS'}, {'GET'}, {'INCRBY', 1},
  {'EXPIRE', 1}, {'TTL'}, {'DEL'}, {'UNLINK'}, -- these two last: none may make the key anew
}

local function try(failed, command, key, ...)
  local reply = redis.pcall(command, key, ...)
  local fault = type(reply) == 'table' and reply.err
  if fault and not string.find(fault, 'WRONGTYPE', 1, true) then failed[#failed + 1] = {command, fault} end
end

local replies = {}
local time = redis.pcall('TIME')
for n = 1, #KEYS do
  local key, failed = string.sub(KEYS[n], 1, -8) .. 'tmx:rights', {}
  redis.pcall('UNLINK', key)
  if time.err then failed[1] = {'TIME', time.err} end
  try(failed, 'SET', key, 1, 'EX', 1)
  for _, command in ipairs(commands) do
    try(failed, command[1], key, unpack(command, 2))
  end
  replies[n] = failed
end
return replies
