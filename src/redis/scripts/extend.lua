-- uses: one_queue clock read fence many
-- args: lease_time
-- each run: id token begun

-- Extends leases of one queue by a new length; `begun` is 1 if the run has begun. Returns for each: 0 the caller does
-- not own it; 1 it is extended; or the mode of a cancellation request, and it is extended, too.
local lease_end = text(seconds_up(now + tonumber(lease_time)))
local ids, leases, replies, fences = {}, {}, {}, {}
for at = run_first, #ARGV, run_width do ids[#ids + 1] = ARGV[at + run_id] end
local scores = redis.call('ZMSCORE', P .. 'lease', unpack(ids))
for n, id in ipairs(ids) do
  local at = run_first + (n - 1) * run_width
  local token, begun = ARGV[at + run_token], ARGV[at + run_begun] == '1'
  local task = read('HMGET', T .. id, 'tmx_run', 'tmx_cancel') or {}
  if scores[n] and holds_run(task[1], token, scores[n]) then
    replies[n] = task[2] or 1
    local words = words_after(task[1], scores[n])
    local mark = begun and string.match(words, '^%d* [as]%f[%s%z]')
    if mark then words = string.gsub(words, '^(%d*) [as]', '%1 b') end
    if mark or scores[n] ~= lease_end then
      leases[#leases + 1] = lease_end
      leases[#leases + 1] = id
      fences[id] = token .. ' ' .. lease_end .. ' ' .. words
    end
  else
    replies[n] = 0
  end
end
redis.call('ZREM', P .. 'lease', '')
for id, fence in pairs(fences) do redis.call('HSET', T .. id, 'tmx_run', fence) end
many('ZADD', P .. 'lease', leases)
return replies
