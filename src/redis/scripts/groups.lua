-- uses: one_queue clock read
-- args:

-- Returns the names of at most 1000 groups, each followed by how many tasks it
-- holds.
local reply = {}
for _, group in ipairs(redis.call('SRANDMEMBER', P .. 'groups', 1000)) do
  reply[#reply + 1] = group
  reply[#reply + 1] = read('ZCARD', P .. 'g:' .. group) or 0
end
return reply
