-- uses: one_queue clock read protobuf describe places without
-- args: state group limit bytes looks reads with_payload with_result prefix one_part other_part above up_to place
-- each anchor: id stamp

-- One page of list(). Examines a bounded number of ids; tasks that can't match the filter are left out here, by the
-- bytes that a message must contain, so that they are not transferred. The caller checks the rest. Arguments: the
-- state; the group if that is aggregating; the maximum numbers of rows, of bytes of messages and results, of ids, and
-- of bytes of both read; whether payloads and results are wanted (0 or 1); the prefix of ids, two parts of messages,
-- the exclusive lower and the inclusive upper bound of the score ('': none); and the place, '' for the beginning. The
-- place is a score, with the id as the only record; or for pending and active an index, with the last ids before it and
-- their stamps, the last one first. Returns {now, the next place or nil at the end, describe() of each}; at least one
-- id is examined.
limit, bytes, looks, reads = tonumber(limit), tonumber(bytes), tonumber(looks), tonumber(reads)
local result_field = with_result == '1' and 'result' or ''
local rows, looked = {}, {}
local filtered = prefix ~= '' or one_part ~= '' or other_part ~= '' or above ~= '' or up_to ~= ''
local wanted = filtered and looks or math.min(looks, limit)

local function look_at(id, score)
  looked[#looked + 1] = id
  if string.sub(id, 1, #prefix) ~= prefix then return end
  local row = describe(id, state, score, result_field)
  local message = row[5]
  reads = reads - #(message or '') - #(row[6] or '')
  if message then
    if not string.find(message, one_part, 1, true) or not string.find(message, other_part, 1, true) then return end
    if with_payload ~= '1' then row[5] = without(message, 18) end
  end
  bytes = bytes - #(row[5] or '') - #(row[6] or '')
  rows[#rows + 1] = row
end

local function may_look()
  return #rows < limit and bytes > 0 and reads > 0
end

local next_place = false
if state == 'pending' or state == 'active' then
  local stamps = {}
  for at = anchor_first, #ARGV, anchor_width do
    stamps[#stamps + 1] = {ARGV[at + anchor_id], ARGV[at + anchor_stamp]}
  end
  local index = list_place(state, tonumber(place) or 0, stamps)
  local ids = redis.call('LRANGE', P .. state, -(index + wanted), -(index + 1))
  for n = #ids, 1, -1 do
    if not may_look() then break end
    look_at(ids[n], state == 'active' and redis.call('ZSCORE', P .. 'lease', ids[n]))
  end
  if index + #looked < redis.call('LLEN', P .. state) then
    next_place = {tostring(index + #looked)}
    for n = #looked, math.max(1, #looked - 7), -1 do
      next_place[#next_place + 1] = looked[n]
      next_place[#next_place + 1] = stamp_of(looked[n], state)
    end
    for n = 1, math.min(8 - #looked, #stamps) do
      next_place[#next_place + 1] = stamps[n][1]
      next_place[#next_place + 1] = stamps[n][2]
    end
  end
else
  local key = state == 'aggregating' and P .. 'g:' .. group or P .. state
  local rank = place ~= '' and rank_behind(key, place, ARGV[anchor_first + anchor_id])
      or above ~= '' and redis.call('ZCOUNT', key, '-inf', above) or 0
  local found = redis.call('ZRANGE', key, rank, rank + wanted - 1, 'WITHSCORES')
  local at_end = rank + #found / 2 >= redis.call('ZCARD', key)
  for n = 1, #found, 2 do
    if up_to ~= '' and tonumber(found[n + 1]) > tonumber(up_to) then
      at_end = true
      break
    end
    if not may_look() then
      at_end = false
      break
    end
    look_at(found[n], found[n + 1])
    next_place = {found[n + 1], found[n]}
  end
  if at_end then next_place = false end
end
return {now, next_place, unpack(rows)}
