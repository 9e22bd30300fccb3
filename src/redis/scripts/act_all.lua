-- uses: one_queue clock read many protobuf locks crashes_of act_on
-- args: action state limit

-- Acts on the first tasks of a state. Returns {tasks acted on, ids taken up
-- (some may have had no task)}.
limit = tonumber(limit)
local ids, groups = {}, {}
if state == 'pending' then
  local found = redis.call('LRANGE', P .. 'pending', -limit, -1)
  for n = #found, 1, -1 do ids[#ids + 1] = found[n] end
elseif state == 'aggregating' then
  for _, group in ipairs(redis.call('SMEMBERS', P .. 'groups')) do
    for _, id in ipairs(redis.call('ZRANGE', P .. 'g:' .. group, 0, limit - #ids - 1)) do
      ids[#ids + 1] = id
      groups[#ids] = group
    end
    if #ids >= limit then break end
  end
else
  ids = redis.call('ZRANGE', P .. state, 0, limit - 1)
end
local here, leftovers, locks = {}, {}, {}
for _, id in ipairs(ids) do
  local exists = read('HEXISTS', T .. id, 'msg')
  if exists == 1 or (exists == 0 and action == 'remove') then
    here[#here + 1] = id
    locks[id] = action == 'remove' and lock_of(id)
  else
    leftovers[#leftovers + 1] = T .. id
  end
end
if state == 'pending' then
  if #ids > 0 then redis.call('RPOP', P .. 'pending', #ids) end
elseif state == 'aggregating' then
  for n, id in ipairs(ids) do detach(id, state, groups[n]) end
else
  many('ZREM', P .. state, ids)
  many('ZREM', P .. 'tmx:due', ids)
end
for _, id in ipairs(here) do act(id, action, locks[id]) end
remove_leftovers(leftovers)
return {#here, #ids}
