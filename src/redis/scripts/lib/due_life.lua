-- uses:

-- tmx:due lives a day from when it was last written or upkeep found it in use: where a queue was
-- deleted by others, who do not know of it, it goes by itself. A task that waits longer while no
-- server runs loses its precise time, and starts at the second to which that was rounded up.
local due_seconds = 86400

local function keep_due(P) redis.call('EXPIRE', P .. 'tmx:due', due_seconds) end
