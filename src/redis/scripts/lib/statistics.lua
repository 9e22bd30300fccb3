-- uses: one_queue clock

-- Counts attempts that ended. A counter of the wrong type is reported, and blocks nothing.
local function day()
  local shifted = math.floor(now_s / 86400) + 719468
  local era = math.floor(shifted / 146097)
  local of_era = shifted - era * 146097
  local year_of_era = math.floor(
      (of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year =
      of_era - (365 * year_of_era + math.floor(year_of_era / 4) - math.floor(year_of_era / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  local of_month = of_year - math.floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02d', year, month, of_month)
end

local fault = ''

local function checked(reply)
  if type(reply) == 'table' and reply.err then fault = reply.err end
  return reply
end

local function count(processed, failed)
  if processed == 0 then return end
  local today = day()
  for name, number in pairs({processed = processed, failed = failed}) do
    if number > 0 then
      local key = P .. name .. ':' .. today
      if checked(redis.pcall('INCRBY', key, number)) == number then
        redis.call('EXPIRE', key, 7776000)
      end
    end
  end
  if checked(redis.pcall('GET', P .. 'processed')) == '9223372036854775807' then
    redis.call('SET', P .. 'processed', processed)
    if failed > 0 then redis.call('SET', P .. 'failed', failed) end
  else
    checked(redis.pcall('INCRBY', P .. 'processed', processed))
    if failed > 0 then checked(redis.pcall('INCRBY', P .. 'failed', failed)) end
  end
end
