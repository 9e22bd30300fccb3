-- uses: read

-- tail(P, name, count, fields) reads the last `count` ids of a list, the last one first, and fields of the task of
-- each: {id, field, ..., id, field, ...}, false for a missing field. It uses one SORT_RO instead of one command per
-- task; if that is refused (a cluster before Redis 7.4, an old server, an ACL), or would misinterpret the name of the
-- queue, it uses single commands. In a cluster from 7.4 on, a task that has left with its slot seems to have no fields:
-- read one to find out.
local function tail(P, name, count, fields)
  if count <= 0 then return {} end
  if not string.find(P, '[%z*]') then
    local get = {}
    for n, field in ipairs(fields) do
      get[2 * n - 1], get[2 * n] = 'GET', P .. 't:*->' .. field
    end
    local found = redis.pcall('SORT_RO', P .. name, 'BY', 'nosort', 'LIMIT', 0, count, 'DESC', 'GET', '#', unpack(get))
    if not found.err then return found end
  end
  local ids, flat = redis.call('LRANGE', P .. name, -count, -1), {}
  for i = #ids, 1, -1 do
    flat[#flat + 1] = ids[i]
    local task = read('HMGET', P .. 't:' .. ids[i], unpack(fields)) or {}
    for n = 1, #fields do flat[#flat + 1] = task[n] or false end
  end
  return flat
end
