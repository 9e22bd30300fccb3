-- uses: read

-- holds(lock, id): whether this task holds the lock.
local function holds(lock, id) return read('GET', lock) == id end
