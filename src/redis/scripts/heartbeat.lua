-- uses: clock list_server write_server
-- keys: servers tables record_key table_key
-- args: seconds record
-- each worker: task_id record

-- Announces a server if its keys may lie in one script; in a cluster, register_server and write_server are used.
-- Arguments: the list of servers, the list of tables of workers, the server's own two keys, the lifetime in seconds,
-- and its record.
list_server(servers, record_key, seconds)
list_server(tables, table_key, seconds)
local workers = {}
for at = worker_first, #ARGV, worker_width do workers[ARGV[at + worker_task_id]] = ARGV[at + worker_record] end
write_server(record_key, table_key, seconds, record, workers)
return 1
