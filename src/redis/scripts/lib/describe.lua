-- uses: one_queue read

-- describe(id, state, score, field of the result, or '' to leave it out) -> {id, score or nil, precise due time or nil, state, message, result, facts,
-- run, group (each nil for none)}.
local function describe(id, state, score, result_field)
  local task = read('HMGET', T .. id, 'state', 'msg', result_field or 'result', 'tmx_facts', 'tmx_run', 'group') or {}
  local row = {id, score or false, false}
  for n = 1, 6 do row[n + 3] = task[n] or false end
  if state == 'scheduled' or state == 'retry' then
    row[3] = redis.call('ZSCORE', P .. 'tmx:due', id)
  end
  return row
end
