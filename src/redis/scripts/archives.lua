-- uses: clock excess
-- args: max_tasks max_age

-- Looks at the archives of several queues, unless in a cluster: these are its keys. Returns for each its excess, or what is wrong with it.
local replies, oldest = {}, oldest_within(max_age)
max_tasks = tonumber(max_tasks)
for n, archived in ipairs(KEYS) do
  local ok, reply = pcall(excess, archived, max_tasks, oldest)
  replies[n] = ok and reply or type(reply) == 'table' and reply.err or tostring(reply)
end
return replies
