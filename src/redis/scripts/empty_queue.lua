-- uses: one_queue clock read statistics many protobuf locks crashes_of act_on
-- args: with_tasks limit

-- One step of the deletion of a queue. If `with_tasks` is 1, its tasks are deleted, too, at most `limit`
-- of them in a step. Returns 0: nothing is left; 1: more is to be deleted, and the queue is paused until
-- then; 2: tasks are active; 3: the queue holds tasks, which were not to be deleted.
if redis.call('LLEN', P .. 'active') > 0 then return 2 end
limit = tonumber(limit)
local zsets = {'scheduled', 'retry', 'archived', 'completed'}
local groups, sets = {}, redis.call('ZRANGE', P .. 'aggregation_sets', 0, -1)
for n, name in ipairs(redis.call('SMEMBERS', P .. 'groups')) do groups[n] = P .. 'g:' .. name end
local tasks = redis.call('LLEN', P .. 'pending')
for _, name in ipairs(zsets) do tasks = tasks + redis.call('ZCARD', P .. name) end
for _, keys in ipairs({groups, sets}) do
  for _, key in ipairs(keys) do
    if string.sub(key, 1, #P) == P then tasks = tasks + redis.call('ZCARD', key) end
  end
end
if tasks > 0 and with_tasks ~= '1' then return 3 end
if tasks > 0 then
  redis.call('ZREM', P .. 'tmx:due', '')
  redis.call('SET', P .. 'paused', now_s)
  local ids, places, locks = redis.call('LRANGE', P .. 'pending', -limit, -1), {}, {}
  local of_pending = #ids
  local function gather(key)
    if #ids >= limit then return end
    local found = redis.call('ZRANGE', key, 0, limit - #ids - 1)
    places[#places + 1] = {key, found}
    for _, id in ipairs(found) do ids[#ids + 1] = id end
  end
  for _, name in ipairs(zsets) do gather(P .. name) end
  for _, keys in ipairs({groups, sets}) do
    for _, key in ipairs(keys) do
      if string.sub(key, 1, #P) == P then gather(key) end
    end
  end
  for _, id in ipairs(ids) do locks[id] = lock_of(id) end
  if of_pending > 0 then redis.call('RPOP', P .. 'pending', of_pending) end
  for _, place in ipairs(places) do many('ZREM', place[1], place[2]) end
  for _, id in ipairs(ids) do
    if read('HLEN', T .. id) then act(id, 'remove', locks[id]) end
  end
  if tasks > #ids then return 1 end
end
local names = {'pending', 'active', 'lease', 'scheduled', 'retry', 'archived', 'completed', 'groups',
    'aggregation_sets', 'tmx:due', 'tmx:ids', 'paused', 'processed', 'failed'}
for _ = 0, 91 do
  names[#names + 1] = 'processed:' .. day()
  names[#names + 1] = 'failed:' .. day()
  now_s = now_s - 86400
end
for n, name in ipairs(names) do names[n] = P .. name end
redis.call('UNLINK', unpack(names))
return 0
