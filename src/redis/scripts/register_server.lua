-- uses: clock server_record

-- KEYS: one of the lists. ARGV: now, seconds to live, the member.
list_server(KEYS[1], ARGV[4], ARGV[3])
return 1
