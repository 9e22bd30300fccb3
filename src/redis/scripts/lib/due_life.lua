-- uses:

-- tmx:due expires a day after it was last written or upkeep found it in use: if others, who do not know it, have
-- deleted the queue, it disappears by itself. A task that waits longer while no server runs loses its precise time, and
-- starts at the rounded-up second.
local due_seconds = 86400

local function keep_due(P) redis.call('EXPIRE', P .. 'tmx:due', due_seconds) end
