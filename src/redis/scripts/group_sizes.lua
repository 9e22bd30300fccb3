-- uses: one_queue clock read

-- KEYS: the queue's. ARGV: now, names of groups. Returns how many tasks each holds.
local sizes = {}
for n = 3, #ARGV do sizes[#sizes + 1] = read('ZCARD', P .. 'g:' .. ARGV[n]) or 0 end
return sizes
