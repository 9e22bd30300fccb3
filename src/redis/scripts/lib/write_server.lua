-- uses:

-- Writes for so many seconds what a server tells of itself: its record, and its table of the records of
-- its workers by the id of the task.
local function write_server(record_key, table_key, seconds, record, workers)
  redis.call('DEL', table_key)
  redis.call('SET', record_key, record, 'EX', seconds)
  for task_id, worker in pairs(workers) do redis.call('HSET', table_key, task_id, worker) end
  redis.call('EXPIRE', table_key, seconds)
end
