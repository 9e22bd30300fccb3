-- uses:

local now_s, now_micros
local by_own_time = ARGV[1] == ''
if by_own_time then
  local time = redis.call('TIME')
  now_s, now_micros = tonumber(time[1]), tonumber(time[2])
else
  now_s, now_micros = tonumber(ARGV[1]), tonumber(ARGV[2])
end
local now = now_s * 1000000 + now_micros
local late = by_own_time and ARGV[2] ~= '' and now > tonumber(ARGV[2])

local function text(number) return string.format('%.0f', number) end

local now_text = text(now)
local now_ns = now_text .. '000'

-- Returns seconds, rounded up.
local function seconds_up(micros)
  local rest = micros % 1000000
  if rest == 0 then return micros / 1000000 end
  return (micros - rest) / 1000000 + 1
end
