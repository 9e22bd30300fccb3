-- uses: clock excess

-- Looks at the archives of several queues, unless in a cluster.
-- KEYS: the archives. ARGV: those of excess(). Returns for each its excess, or what is wrong with it.
local replies = {}
for n, archived in ipairs(KEYS) do
  local ok, reply = pcall(excess, archived)
  replies[n] = ok and reply or type(reply) == 'table' and reply.err or tostring(reply)
end
return replies
