-- uses: read

-- Runs a command with many members, in chunks that Lua can unpack. The chunk size is even, for pairs.
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

-- Removes keys in the place of tasks that are not tasks: a hash without a message, or a key of another type.
local function remove_leftovers(keys)
  for _, key in ipairs(keys) do
    if read('HEXISTS', key, 'msg') == 0 then redis.call('UNLINK', key) end
  end
end
