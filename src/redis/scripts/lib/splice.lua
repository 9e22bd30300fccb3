-- uses: clock

-- `head` and `tail` of a message, with `now` in seconds as a varint in between: for a field that
-- only the time of the script can fill.
local stamp = ''
do
  local rest = now_s
  repeat
    local low = rest % 128
    rest = (rest - low) / 128
    stamp = stamp .. string.char(rest > 0 and low + 128 or low)
  until rest == 0
end
