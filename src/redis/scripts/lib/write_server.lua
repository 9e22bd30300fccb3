-- uses:

-- Writes the record of a server, and the table of the records of its workers by task id, for a number of seconds.
local function write_server(record_key, table_key, seconds, record, workers)
  redis.call('DEL', table_key)
  redis.call('SET', record_key, record, 'EX', seconds)
  for task_id, worker in pairs(workers) do redis.call('HSET', table_key, task_id, worker) end
  redis.call('EXPIRE', table_key, seconds)
end
