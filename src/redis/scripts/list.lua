-- uses: one_queue clock read describe

-- KEYS: the queue's. ARGV: now, state, offset, how many, bytes of messages and results after which
-- no other task is read, the group if the state is aggregating. Returns now, whether there is more of what was asked for (0 or 1), then
-- describe() of each, at least of one.
local state, offset, limit, bytes = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local reply, cut = {now, 0}, false

local function add(id, score)
  if bytes <= 0 then
    cut = true
    return
  end
  local row = describe(id, state, score)
  bytes = bytes - #(row[5] or '') - #(row[6] or '')
  reply[#reply + 1] = row
end

if state == 'pending' or state == 'active' then
  local ids = redis.call('LRANGE', P .. state, -(offset + limit), -(offset + 1))
  for n = #ids, 1, -1 do
    add(ids[n], state == 'active' and redis.call('ZSCORE', P .. 'lease', ids[n]))
  end
else
  local key = state == 'aggregating' and P .. 'g:' .. ARGV[7] or P .. state
  local found = redis.call('ZRANGE', key, offset, offset + limit - 1, 'WITHSCORES')
  for i = 1, #found, 2 do add(found[i], found[i + 1]) end
end
if cut then reply[2] = 1 end
return reply
