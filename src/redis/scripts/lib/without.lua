-- uses: protobuf

-- without(bytes, tag): a message without the fields with a tag, which must be that of a string; unchanged if the
-- message is invalid.
local function without(bytes, tag)
  local parts, kept_from, at = {}, 1, 1
  while at <= #bytes do
    local found, _, after = field_at(bytes, at)
    if not found or after > #bytes + 1 then return bytes end
    if found == tag then
      parts[#parts + 1] = string.sub(bytes, kept_from, at - 1)
      kept_from = after
    end
    at = after
  end
  parts[#parts + 1] = string.sub(bytes, kept_from)
  return table.concat(parts)
end
