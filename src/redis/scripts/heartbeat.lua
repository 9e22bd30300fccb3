-- uses: clock server_record

-- KEYS: the list of servers, the list of tables of workers, a server's record, its table of workers.
-- ARGV: now, seconds to live, the record, then task id and record of each worker. For where the
-- keys may lie together; in a cluster the two scripts that follow.
list_server(KEYS[1], KEYS[3], ARGV[3])
list_server(KEYS[2], KEYS[4], ARGV[3])
write_server(KEYS[3], KEYS[4], ARGV[3], ARGV[4], 5)
return 1
