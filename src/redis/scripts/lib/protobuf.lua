-- uses:

-- Reads fields of a protobuf message.
local function varint(bytes, at)
  local value, factor = 0, 1
  while true do
    local byte = string.byte(bytes, at)
    if not byte then return nil, at end
    at = at + 1
    value = value + byte % 128 * factor
    if byte < 128 then return value, at end
    factor = factor * 128
  end
end

-- Returns the field at `at`: its tag, its value (a number, or the string if the tag is `wanted`), and where the next
-- field begins. Returns no tag if the bytes are invalid.
local function field_at(bytes, at, wanted)
  local tag, value = string.byte(bytes, at, at + 1)
  if value and tag < 128 and value < 128 then -- as most are
    at = at + 2
  else
    tag, at = varint(bytes, at)
    if not tag then return nil end
    value = nil
  end
  local wire = tag % 8
  if wire == 0 then
    if not value then value, at = varint(bytes, at) end
    if not value then return nil end
  elseif wire == 2 then
    local length = value
    if not length then length, at = varint(bytes, at) end
    if not length then return nil end
    value = tag == wanted and string.sub(bytes, at, at + length - 1)
    at = at + length
  elseif wire == 1 then
    at = at + (value and 7 or 8)
  elseif wire == 5 then
    at = at + (value and 3 or 4)
  else
    return nil
  end
  return tag, value, at
end

-- Returns the last value of a field, by its tag: a number, or a string; nil if there is none.
local function last_field(bytes, wanted)
  local at, found = 1, nil
  local tag, value
  while at <= #bytes do
    tag, value, at = field_at(bytes, at, wanted)
    if not tag then return found end
    if tag == wanted then found = value end
  end
  return found
end
