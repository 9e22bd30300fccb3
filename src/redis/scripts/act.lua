-- uses: one_queue clock read protobuf locks crashes_of act_on
-- args: action only
-- each task: id

-- Acts on tasks, if `only` is not '' on those in that state alone. Returns for each, in their order: 0 done; 1 there is no such task; 2 it is in a state that does not
-- allow it. To take a task out of pending walks the list: a call ends after walking a million ids, at
-- least one task, and its reply then is of the first ids only.
local replies, walked = {}, 0
for at = task_first, #ARGV do
  if walked >= 1000000 then break end
  local id = ARGV[at]
  local task = read('HMGET', T .. id, 'state', 'group') or {}
  local state = task[1]
  if not state then
    replies[#replies + 1] = 1
  elseif (only ~= '' and state ~= only) or not allowed[action][state] then
    replies[#replies + 1] = 2
  elseif action ~= 'remove' and redis.call('HEXISTS', T .. id, 'msg') == 0 then
    replies[#replies + 1] = 1
  else
    local lock = action == 'remove' and lock_of(id)
    if state == 'pending' then walked = walked + redis.call('LLEN', P .. 'pending') end
    if detach(id, state, task[2]) then
      act(id, action, lock)
      replies[#replies + 1] = 0
    else
      replies[#replies + 1] = 2
    end
  end
end
return replies
