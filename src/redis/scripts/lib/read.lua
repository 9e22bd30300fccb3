-- uses:

-- read(...) a key that may be of the wrong type, which counts as one that is not there: nil. What else
-- fails, as while a slot is moved in a cluster, stops the script.
local function read(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then return nil end
  error(reply.err, 0)
end
