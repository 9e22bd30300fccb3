-- uses: clock list_server
-- keys: list
-- args: seconds member

-- Of heartbeat the part that writes to one of the lists.
list_server(list, member, seconds)
return 1
