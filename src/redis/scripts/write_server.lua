-- uses: clock server_record

-- KEYS: a server's record, its table of workers. ARGV: as for heartbeat.
write_server(KEYS[1], KEYS[2], ARGV[3], ARGV[4], 5)
return 1
