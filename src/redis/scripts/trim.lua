-- uses: one_queue clock read many protobuf locks crashes_of act_on excess
-- args: max_tasks max_age limit

-- Deletes tasks beyond the limits of an archive, at most `limit` of them. Returns {number of tasks
-- deleted, number of tasks that are still beyond the limits}.
local archived, oldest = P .. 'archived', oldest_within(max_age)
max_tasks = tonumber(max_tasks)
local surplus = excess(archived, max_tasks, oldest)
local count = math.min(surplus, tonumber(limit))
if count == 0 then return {0, surplus} end
local ids, keys, locks, deleted = redis.call('ZRANGE', archived, 0, count - 1), {}, {}, 0
for _, id in ipairs(ids) do
  local exists = read('HEXISTS', T .. id, 'msg')
  if exists then
    keys[#keys + 1] = T .. id
    locks[#locks + 1] = lock_of(id)
    deleted = deleted + exists
  end
end
many('ZREM', archived, ids)
remove_tasks(locks)
remove_tasks(keys)
return {deleted, excess(archived, max_tasks, oldest)}
