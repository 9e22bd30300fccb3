-- uses: one_queue read

-- The position at which a listing continues, even if tasks have come and gone since the last page.

-- Returns whether `a` sorts after `b` as Redis sorts members: by bytes, whereas Lua would use the locale.
local function is_behind(a, b)
  for n = 1, math.min(#a, #b) do
    local byte, other = string.byte(a, n), string.byte(b, n)
    if byte ~= other then return byte > other end
  end
  return #a > #b
end

-- rank_behind(key, score, id): the rank of the first member of a sorted set after that one, which may have left.
local function rank_behind(key, score, id)
  local present = redis.call('ZSCORE', key, id)
  if present and tonumber(present) == tonumber(score) then return redis.call('ZRANK', key, id) + 1 end
  local low = redis.call('ZCOUNT', key, '-inf', '(' .. score)
  local high = low + redis.call('ZCOUNT', key, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_behind(redis.call('ZRANGE', key, middle, middle)[1], id) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

-- A value that changes when a task leaves a list and returns.
local function stamp_of(id, name)
  if name == 'pending' then return read('HGET', T .. id, 'pending_since') or '' end
  return string.sub(read('HGET', T .. id, 'tmx_run') or '', 1, 16)
end

-- list_place(name, index, stamps): how many ids of a list, from its end, do not follow the position. `stamps` are the
-- last ids before the position with their stamps, the last one first; `index` is their number at that time. Looks near
-- there first, then for the last id that is still in the list, and ends at the end of the list, which is right if tasks
-- were taken.
local function list_place(name, index, stamps)
  local order, last = {}, nil
  for n, stamp in ipairs(stamps) do
    if stamp_of(stamp[1], name) == stamp[2] and read('HGET', T .. stamp[1], 'state') == name then
      order[stamp[1]] = n
      last = last or stamp[1]
    end
  end
  if not last then return 0 end
  local before, best = math.max(index - 1000, 0), nil
  local near = redis.call('LRANGE', P .. name, -(index + 1000), -(before + 1))
  local found_at
  for n = 1, #near do
    local rank = order[near[n]]
    if rank and (not best or rank < best) then best, found_at = rank, before + #near - n + 1 end
  end
  if found_at then return found_at end
  local found = redis.call('LPOS', P .. name, last, 'RANK', -1, 'MAXLEN', 200000)
  return found and redis.call('LLEN', P .. name) - found or 0
end
