-- uses:

-- For scripts that use all keys of one queue.
local P = string.sub(KEYS[1], 1, -8)
local T = P .. 't:'
