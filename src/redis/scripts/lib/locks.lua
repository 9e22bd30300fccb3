-- uses: read

-- holds(lock, id): whether this is the task that holds the lock.
local function holds(lock, id) return read('GET', lock) == id end
