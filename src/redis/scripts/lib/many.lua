-- uses: read

-- A command with many members, in pieces that Lua can unpack. `items` of even length where they are
-- pairs.
local function many(command, key, items)
  for first = 1, #items, 500 do
    redis.call(command, key, unpack(items, first, math.min(first + 499, #items)))
  end
end

local function remove_tasks(keys)
  for first = 1, #keys, 500 do
    redis.call('UNLINK', unpack(keys, first, math.min(first + 499, #keys)))
  end
end

-- What is there where a task should be: nothing, a hash without message, or a key that is none of ours.
local function remove_leftovers(keys)
  for _, key in ipairs(keys) do
    if read('HEXISTS', key, 'msg') == 0 then redis.call('UNLINK', key) end
  end
end
