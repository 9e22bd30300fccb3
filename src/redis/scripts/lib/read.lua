-- uses:

-- read(...) reads a key that may be of the wrong type, which counts as missing: nil. Other errors, such as during the
-- migration of a slot in a cluster, stop the script.
local function read(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then return nil end
  error(reply.err, 0)
end
