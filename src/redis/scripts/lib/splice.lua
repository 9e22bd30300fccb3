-- uses: clock

-- The present time in seconds as a varint, to be inserted between `head` and `tail` of a message: for a field that
-- needs the time of the script.
local stamp = ''
do
  local rest = now_s
  repeat
    local low = rest % 128
    rest = (rest - low) / 128
    stamp = stamp .. string.char(rest > 0 and low + 128 or low)
  until rest == 0
end
