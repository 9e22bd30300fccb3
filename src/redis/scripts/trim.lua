-- uses: one_queue clock read many protobuf locks crashes_of act_on excess

-- KEYS: the queue's. ARGV: those of excess(), how many may be deleted. Returns {tasks deleted, how
-- many are still beyond the limits}.
local archived, limit = P .. 'archived', tonumber(ARGV[5])
local count = math.min(excess(archived), limit)
if count == 0 then return {0, excess(archived)} end
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
return {deleted, excess(archived)}
