-- uses: one_queue clock read describe
-- args: id

-- Returns {now, describe()}, or {now} if there is no such task.
local state = read('HGET', T .. id, 'state')
if not state then return {now} end
local score = false
if state == 'active' then
  score = redis.call('ZSCORE', P .. 'lease', id)
elseif state == 'scheduled' or state == 'retry' or state == 'archived' or state == 'completed' then
  score = redis.call('ZSCORE', P .. state, id)
end
return {now, describe(id, state, score)}
