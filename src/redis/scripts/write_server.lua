-- uses: clock write_server
-- keys: record_key table_key
-- args: seconds record
-- each worker: task_id record

-- The part of heartbeat that writes the server's own keys.
local workers = {}
for at = worker_first, #ARGV, worker_width do workers[ARGV[at + worker_task_id]] = ARGV[at + worker_record] end
write_server(record_key, table_key, seconds, record, workers)
return 1
