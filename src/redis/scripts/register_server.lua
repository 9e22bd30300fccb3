-- uses: clock list_server
-- keys: list
-- args: seconds member

-- The part of heartbeat that writes to one of the lists.
list_server(list, member, seconds)
return 1
