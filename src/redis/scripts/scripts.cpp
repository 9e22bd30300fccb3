#include "redis/scripts/scripts.hpp"

#include <initializer_list>
#include <string>
#include <string_view>

// What all scripts have in common:
//
// KEYS[1] of a script about a queue is its pending list; all other keys are built from that, and so
// lie in its slot. ARGV[1] and ARGV[2] are now, as whole seconds and the microseconds beyond; or
// ARGV[1] is empty, for the time of Redis itself, and ARGV[2] the time from which on the call is
// `late`, or empty: its sender has given it up. Times and lengths of time are microseconds unless
// called seconds.
//
// Redis does not roll a script back, so each looks before it writes: a key of the wrong type stops
// it while nothing has changed. And a full Redis refuses a script whose *first* write needs memory,
// so each but `enqueue` begins with one that frees some (if only a ZREM of nothing).
//
// Lua's numbers are doubles. Redis passes them on to commands with 17 digits, enough for
// microseconds; `..` prints 14, so longer ones go through text().
namespace taskmux::redis {
namespace {

// Works on all keys of one queue.
constexpr std::string_view one_queue = R"lua(
local P = string.sub(KEYS[1], 1, -8)
local T = P .. 't:'
)lua";

constexpr std::string_view clock = R"lua(
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

-- Seconds, rounded up.
local function seconds_up(micros)
  local rest = micros % 1000000
  if rest == 0 then return micros / 1000000 end
  return (micros - rest) / 1000000 + 1
end
)lua";

// read(...) a key that may be of the wrong type, which counts as one that is not there: nil. What else
// fails, as while a slot is moved in a cluster, stops the script.
constexpr std::string_view read = R"lua(
local function read(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then return nil end
  error(reply.err, 0)
end
)lua";

// due_of(score): the instant from which a public score is due, within what can be counted: others
// may write fractions, or infinity.
constexpr std::string_view due_of = R"lua(
local function due_of(score)
  return math.max(0, math.min(math.ceil(tonumber(score)), 8990000000)) * 1000000
end
)lua";

// What tmx_run says: 16 hex digits of a token, the score of the lease, when the run was taken, and how
// far it has come (see begun_of in runs.hpp); later versions may add words, which are kept.
// holds_run(run, token, score): whether that is of the caller's token and the present score of the
// lease. words_after(run, score): the words after the score; nil if it is of another lease.
constexpr std::string_view fence = R"lua(
local find, last_score, between = string.find, nil, nil

local function holds_run(run, token, score)
  if score ~= last_score then last_score, between = score, ' ' .. score .. ' ' end -- most are the same
  return run and #token == 16 and find(run, token, 1, true) == 1 and find(run, between, 17, true) == 17
end

local function words_after(run, score)
  if run and find(run, ' ' .. score .. ' ', 17, true) == 17 then return string.sub(run, 19 + #score) end
end
)lua";

// crashes_of(facts): the crashes in a row that tmx_facts tell of. Most facts are one word of 16
// characters, which says that there are none.
constexpr std::string_view crashes_of = R"lua(
local function crashes_of(facts)
  if not facts or #facts == 16 then return 0 end
  return tonumber(string.match(facts, '^%d+ %d+ (%d+)') or '0')
end
)lua";

// give_up_run(key) ends the run of a task that goes back as if it had not been taken: a wish to cancel
// it is kept for the next run, as tmx_wish beside tmx_cancel, which alone is of the present run.
constexpr std::string_view give_up_run = R"lua(
local function give_up_run(key)
  redis.call('HDEL', key, 'tmx_run')
  local wish = redis.call('HGET', key, 'tmx_cancel')
  if wish then redis.call('HSET', key, 'tmx_wish', wish) end
end
)lua";

// A command with many members, in pieces that Lua can unpack. `items` of even length where they are
// pairs.
constexpr std::string_view many = R"lua(
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
)lua";

// tail(P, name, count, fields) reads the last `count` ids of a list, the last one first, and fields
// of the task of each: {id, field, ..., id, field, ...}, false for a field that is not there. One
// SORT_RO in place of a command a task; where that is refused (a cluster before Redis 7.4, an old server,
// an ACL), or would misread the name of the queue, it is done one by one. In a cluster from 7.4 on, a
// task that has left with its slot looks as if it had no fields: read one to know.
constexpr std::string_view tail = R"lua(
local function tail(P, name, count, fields)
  if count <= 0 then return {} end
  if not string.find(P, '[%z*]') then
    local get = {}
    for n, field in ipairs(fields) do
      get[2 * n - 1], get[2 * n] = 'GET', P .. 't:*->' .. field
    end
    local found = redis.pcall('SORT_RO', P .. name, 'BY', 'nosort', 'LIMIT', 0, count, 'DESC', 'GET', '#', unpack(get))
    if not found.err then return found end
  end
  local ids, flat = redis.call('LRANGE', P .. name, -count, -1), {}
  for i = #ids, 1, -1 do
    flat[#flat + 1] = ids[i]
    local task = read('HMGET', P .. 't:' .. ids[i], unpack(fields)) or {}
    for n = 1, #fields do flat[#flat + 1] = task[n] or false end
  end
  return flat
end
)lua";

// tmx:due lives a day from when it was last written or upkeep found it in use: where a queue was
// deleted by others, who do not know of it, it goes by itself. A task that waits longer while no
// server runs loses its precise time, and starts at the second to which that was rounded up.
constexpr std::string_view due_life = R"lua(
local due_seconds = 86400

local function keep_due(P) redis.call('EXPIRE', P .. 'tmx:due', due_seconds) end
)lua";

// Looks into a protobuf message.
constexpr std::string_view protobuf = R"lua(
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

-- One field at `at`: its tag, its value (a number, or the string if the tag is `wanted`), and where the
-- next one begins. No tag if there is none to be made out.
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

-- The last value of a field, by its tag: a number, or a string. Nil if there is none.
local function last_field(bytes, wanted)
  local at, found, tag, value = 1, nil, nil, nil
  while at <= #bytes do
    tag, value, at = field_at(bytes, at, wanted)
    if not tag then return found end
    if tag == wanted then found = value end
  end
  return found
end
)lua";

// `head` and `tail` of a message, with `now` in seconds as a varint in between: for a field that
// only the time of the script can fill.
constexpr std::string_view splice = R"lua(
local stamp = ''
do
  local rest = now_s
  repeat
    local low = rest % 128
    rest = (rest - low) / 128
    stamp = stamp .. string.char(rest > 0 and low + 128 or low)
  until rest == 0
end
)lua";

// forward(P, limit) moves what is due of scheduled and then of retry, `limit` tasks at most,
// earliest first, to pending (or back to the group): last in line, or first if its workers were
// lost. An entry of tmx:due counts iff, rounded up to a second, it is the public score; one that is
// due and does not count is removed. Returns how many tasks were moved, how many ids without task
// were removed, when the next one is due (or nil), and whether that has passed, since the limit was
// reached.
constexpr std::string_view forward = R"lua(
local function source_of(P, id, micros)
  local score = text(seconds_up(micros))
  if redis.call('ZSCORE', P .. 'scheduled', id) == score then return 'scheduled' end
  if redis.call('ZSCORE', P .. 'retry', id) == score then return 'retry' end
end

local function next_due(P)
  local due = nil
  for _, name in ipairs({'scheduled', 'retry'}) do
    local head = redis.call('ZRANGE', P .. name, 0, 0, 'WITHSCORES')
    if head[1] then
      local at = due_of(head[2])
      if not due or at < due then due = at end
    end
  end
  for _ = 1, 100 do
    local head = redis.call('ZRANGE', P .. 'tmx:due', 0, 0, 'WITHSCORES')
    if not head[1] then break end
    local at = tonumber(head[2])
    if due and at >= due then break end
    if source_of(P, head[1], at) then
      due = at
      break
    end
    redis.call('ZREM', P .. 'tmx:due', head[1])
  end
  return due
end

local function due_tasks(P, limit)
  local tasks, seen = {}, {}
  for _, name in ipairs({'scheduled', 'retry'}) do
    local found = redis.call('ZRANGEBYSCORE', P .. name, '-inf', now_s, 'WITHSCORES', 'LIMIT', 0, limit)
    for i = 1, #found, 2 do
      local id, due = found[i], due_of(found[i + 1])
      local exact = tonumber(redis.call('ZSCORE', P .. 'tmx:due', id) or '')
      if exact and text(seconds_up(exact)) == found[i + 1] then due = exact end
      if not seen[id] then tasks[#tasks + 1] = {id, name, due} end
      seen[id] = true
    end
  end
  local unmatched = {}
  local found = redis.call('ZRANGEBYSCORE', P .. 'tmx:due', '-inf', now_text, 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #found, 2 do
    local id, due = found[i], tonumber(found[i + 1])
    if not seen[id] then
      local name = source_of(P, id, due)
      if name then
        tasks[#tasks + 1] = {id, name, due}
      else
        unmatched[#unmatched + 1] = id
      end
    end
  end
  table.sort(tasks, function(a, b)
    if a[2] ~= b[2] then return a[2] == 'scheduled' end
    if a[3] ~= b[3] then return a[3] < b[3] end
    return a[1] < b[1]
  end)
  while #tasks > limit do table.remove(tasks) end
  return tasks, unmatched
end

-- The group that a task waited to join, if it can.
local function group_of(P, group)
  if group and group ~= '' and read('ZCARD', P .. 'g:' .. group) then return group end
end

local function forward(P, limit)
  local due = next_due(P)
  if not due or due > now then return 0, 0, due, false end
  redis.call('LLEN', P .. 'pending')
  local tasks, unmatched = due_tasks(P, limit)
  local groups_are_listed = read('SCARD', P .. 'groups')
  local from, pending, here, leftovers = {scheduled = {}, retry = {}}, {}, {}, {}
  for _, task in ipairs(tasks) do
    local id, ids, due = task[1], from[task[2]], task[3]
    local key = P .. 't:' .. id
    ids[#ids + 1] = id
    unmatched[#unmatched + 1] = id
    if read('HEXISTS', key, 'msg') == 1 then
      local task = redis.call('HMGET', key, 'group', 'tmx_facts')
      here[#here + 1] = {id, key, group_of(P, task[1]), crashes_of(task[2]) > 0, due}
    else
      leftovers[#leftovers + 1] = key
    end
  end
  many('ZREM', P .. 'scheduled', from.scheduled)
  many('ZREM', P .. 'retry', from.retry)
  many('ZREM', P .. 'tmx:due', unmatched)
  local suspects = {}
  for _, task in ipairs(here) do
    local id, key, group = task[1], task[2], task[3]
    if group then
      redis.call('ZADD', P .. 'g:' .. group, now_s, id)
      if groups_are_listed then redis.call('SADD', P .. 'groups', group) end
      redis.call('HSET', key, 'state', 'aggregating')
    else
      local line = task[4] and suspects or pending
      line[#line + 1] = id
      -- Since it was due: how late it is shall be seen.
      redis.call('HSET', key, 'state', 'pending', 'pending_since', text(task[5]) .. '000')
    end
  end
  many('LPUSH', P .. 'pending', pending)
  many('RPUSH', P .. 'pending', suspects)
  remove_leftovers(leftovers)
  due = next_due(P)
  return #here, #leftovers, due, due ~= nil and due <= now
end
)lua";

// Counts attempts that ended. A counter of the wrong type is reported; it stops nothing.
constexpr std::string_view statistics = R"lua(
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
)lua";

// holds(lock, id): whether this is the task that holds the lock.
constexpr std::string_view locks = R"lua(
local function holds(lock, id) return read('GET', lock) == id end
)lua";

// Takes in tasks of one queue.
// KEYS: the queue's. ARGV: now, whether any id is to be remembered ('' or 1), then for each task id,
// message, and '' if there is no more to say of it, else 'x', lock key ('' = none), seconds of the
// lock beyond the due time, when it is due, when it expires (each '' = none; an instant; or `+` and a
// delay), whether it may be retried (0 or 1), for how many seconds its id is to be remembered (0 = not).
// Returns for each: 0 it is pending; -1 the lock is held; -2 the id is taken; -3 Redis is full (told
// so only where ids are remembered: else the whole call is refused); -4 the id is remembered; else it
// is scheduled, and this is when it is due. asynq takes the lock before it looks for the id, and so
// leaks it.
constexpr std::string_view enqueue = R"lua(
local call = redis.call
call('LLEN', P .. 'pending')
call('ZCARD', P .. 'scheduled')
call('ZCARD', P .. 'tmx:due')
local remembers = ARGV[3] ~= ''
if remembers then call('ZCARD', P .. 'tmx:ids') end

local function instant(argument)
  if argument == '' then return nil end
  if string.byte(argument) == 43 then return now + tonumber(argument) end
  return tonumber(argument)
end

-- Tries the first write, which is the only one of a script that a full Redis refuses: ids that are
-- remembered must be answered for all the same.
local full, written = false, false
local function is_full(key, message)
  if full or written then return full end
  local reply = redis.pcall('HSET', key, 'msg', message)
  local problem = type(reply) == 'table' and reply.err
  if not problem then
    written = true
  elseif string.find(problem, 'OOM', 1, true) == 1 then
    full = true
  else
    error(problem, 0)
  end
  return full
end

local function is_remembered(id)
  local over = call('ZSCORE', P .. 'tmx:ids', id)
  return over and tonumber(over) > now
end

local replies, pending, at, writes_due = {}, {}, 4, false
while at <= #ARGV do
  local id, message, lock, ttl, due, facts = ARGV[at], ARGV[at + 1], '', nil, now, now_text
  local idempotent_for, outcome = 0, 0
  if ARGV[at + 2] == '' then
    at = at + 3
  else
    lock, ttl, due = ARGV[at + 3], ARGV[at + 4], instant(ARGV[at + 5]) or now
    local expires = instant(ARGV[at + 6])
    if expires or ARGV[at + 7] == '0' then facts = string.format('%016.0f %.0f 0', now, expires or 0) end
    idempotent_for = tonumber(ARGV[at + 8])
    at = at + 9
  end
  local key = T .. id
  if idempotent_for > 0 and is_remembered(id) then
    outcome = -4
  elseif call('EXISTS', key) == 1 then
    outcome = -2
  elseif lock ~= '' and call('EXISTS', lock) == 1 then
    outcome = -1
  elseif remembers and is_full(key, message) then
    outcome = -3
  else
    if due > now then
      local score = seconds_up(due)
      call('HSET', key, 'msg', message, 'state', 'scheduled', 'tmx_facts', facts)
      call('ZADD', P .. 'scheduled', score, id)
      if score * 1000000 ~= due then
        call('ZADD', P .. 'tmx:due', due, id)
        writes_due = true
      end
      outcome = due
    else
      call('HSET', key, 'msg', message, 'state', 'pending', 'pending_since', now_ns, 'tmx_facts', facts)
      pending[#pending + 1] = id
    end
    if lock ~= '' then
      ttl = tonumber(ttl)
      if due > now then ttl = ttl + seconds_up(due - now) end
      call('SET', lock, id, 'EX', ttl)
      call('HSET', key, 'unique_key', lock)
    end
    if idempotent_for > 0 then call('ZADD', P .. 'tmx:ids', text(now + idempotent_for * 1000000), id) end
  end
  replies[#replies + 1] = outcome
end
many('LPUSH', P .. 'pending', pending)
if writes_due then keep_due(P) end
-- More than came in, so that what is over does not pile up in a queue without upkeep. The expiry is
-- always a write, so that WAIT after a repeat waits for what the first call wrote.
if remembers then
  local over = call('ZRANGEBYSCORE', P .. 'tmx:ids', '-inf', now_text, 'LIMIT', 0, 2 * #replies)
  many('ZREM', P .. 'tmx:ids', over)
  local last = call('ZRANGE', P .. 'tmx:ids', -1, -1, 'WITHSCORES')[2]
  if last then call('PEXPIRE', P .. 'tmx:ids', math.ceil((tonumber(last) - now) / 1000)) end
end
return replies
)lua";

// Moves what is due to pending, and takes pending tasks under a lease; of several queues unless in
// a cluster; takes none if late. KEYS: the queues'. ARGV: now, length of the lease, first 12 of the
// 16 hex digits of the tokens, number of free workers, bytes of messages at most, due tasks to move
// at most in each queue, bytes of the longest message lately read, the number of the first run, then
// for each queue how many to take. Returns now; for each queue, {error or '', runs, next due time or nil,
// whether it may hold more, ids that had no task, pairs of the number of a run that is to be cancelled
// and the mode}; and bytes of the longest message read. Runs are any number of pairs: the number of a
// run, and a list of it and those that follow it, each as four values: id, message, facts, since when
// it was pending in ns. A token ends in the number of the run, as 4 hex digits.
constexpr std::string_view acquire = R"lua(
local lease_end = text(seconds_up(now + tonumber(ARGV[3])))
local token, free, bytes = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local taken, first_number = 0, tonumber(ARGV[9])
local call, format = redis.call, string.format

-- Whether the task may not be taken ahead of a free worker: a crash would end it before its only attempt, or it may
-- be what workers were lost by. Facts of 16 characters say that it may. Else max retry does; fields are written in
-- ascending order, and where they are not, the task waits.
local function must_wait(message, facts)
  if facts and #facts == 16 then return false end
  if crashes_of(facts) > 0 then return true end
  local at, tag, value, retries = 1, nil, nil, 0
  while at <= #message do
    tag, value, at = field_at(message, at)
    if not tag or tag > 40 then break end
    if tag == 40 then retries = value end
  end
  return retries == 0 or retries >= 2147483648
end

-- Puts the tasks of `ids` under the lease of the caller's runs from number `taken` on; those of `suspects` (nil for
-- none), by id, are marked as not begun, and those beyond the free workers as taken ahead.
local function lease(P, ids, suspects, wishes)
  local T, fence_end, leases = P .. 't:', ' ' .. lease_end .. ' ' .. now_text, {}
  for n = 1, #ids do
    leases[2 * n - 1] = lease_end
    leases[2 * n] = ids[n]
  end
  many('LPUSH', P .. 'active', ids)
  many('ZADD', P .. 'lease', leases)
  for n = 1, #ids do
    local key = T .. ids[n]
    local run = token .. format('%04x', first_number + taken) .. fence_end
    if taken >= free then
      run = run .. ' a'
    elseif suspects and suspects[ids[n]] then
      run = run .. ' s'
    end
    call('HSET', key, 'state', 'active', 'tmx_run', run)
    -- A wish to cancel an earlier run, of a Go worker's perhaps, is not one to cancel this, unless that was
    -- given back before it was begun.
    if call('HDEL', key, 'pending_since', 'tmx_cancel') > 1 then
      local wish = call('HGET', key, 'tmx_wish')
      if wish then
        call('HSET', key, 'tmx_cancel', wish)
        call('HDEL', key, 'tmx_wish')
        wishes[#wishes + 1] = first_number + taken
        wishes[#wishes + 1] = wish
      end
    end
    taken = taken + 1
  end
end

-- What is read at once grows while the messages are small.
local function at_once(most, longest) return math.max(1, math.min(most, math.floor(1000000 / (longest + 1)))) end

local chunk, longest = at_once(8, tonumber(ARGV[8])), 0
local fields = {'msg', 'tmx_facts', 'pending_since'}

local function take(queue, count)
  local P, seen = queue.P, queue.seen
  while count > 0 and bytes > 0 and not queue.stopped do
    local found = tail(P, 'pending', math.min(count, chunk), fields)
    local size = #found
    if size == 0 then return end
    call('LLEN', P .. 'active')
    call('ZCARD', P .. 'lease')
    -- The tasks that are taken move to the front of what was found.
    local ids, number, dangling, popped, suspects = {}, 0, {}, 0, nil
    for i = 1, size, 4 do
      local id, message, facts = found[i], found[i + 1], found[i + 2]
      if message and #message > longest then longest = #message end
      if not message and not seen[id] then read('HGET', P .. 't:' .. id, 'msg') end
      if not message or seen[id] then
        if not seen[id] then dangling[#dangling + 1] = id end
      elseif taken + number >= free and must_wait(message, facts) then
        queue.stopped = true
        break
      elseif taken + number > 0 and #message > bytes then
        queue.stopped = true
        break
      else
        bytes = bytes - #message
        if number < popped then
          local to = 4 * number
          found[to + 1], found[to + 2], found[to + 3], found[to + 4] = id, message, facts, found[i + 3]
        end
        number = number + 1
        ids[number] = id
        if facts and #facts ~= 16 and crashes_of(facts) > 0 then
          suspects = suspects or {}
          suspects[id] = true
        end
      end
      seen[id] = true
      popped = popped + 1
    end
    if popped > 0 then
      for i = size, 4 * number + 1, -1 do found[i] = nil end
      local first, last = taken, #queue.runs
      call('RPOP', P .. 'pending', popped)
      lease(P, ids, suspects, queue.wishes)
      -- Only now are they the caller's: a server that takes no writes stops this before.
      queue.runs[last + 1], queue.runs[last + 2] = first_number + first, found
      for _, id in ipairs(dangling) do queue.dangling[#queue.dangling + 1] = id end
    end
    count = count - number
    -- However many there are, a call is short.
    if #queue.dangling >= 1000 then queue.stopped = true end
    chunk = at_once(math.min(8 * chunk, 200), longest)
  end
end

local function serve(queue, count)
  if queue.error ~= '' or queue.paused or queue.stopped then return end
  local ok, problem = pcall(take, queue, count)
  if not ok then queue.error = type(problem) == 'table' and problem.err or tostring(problem) end
end

-- However many queues have a crowd that is due, a call is short: the rest comes with the next.
local forwards = 5 * tonumber(ARGV[7])
local queues, wanted = {}, 0
for n = 1, #KEYS do
  local P = string.sub(KEYS[n], 1, -8)
  local queue = {P = P, error = '', runs = {}, wishes = {}, dangling = {}, seen = {}, more = false}
  local count = late and 0 or tonumber(ARGV[9 + n])
  queues[n] = queue
  local ok, problem = pcall(function()
    local moved, dropped, due
    moved, dropped, due, queue.more = forward(P, math.min(tonumber(ARGV[7]), math.max(forwards, 1)))
    forwards = forwards - moved - dropped
    call('LLEN', KEYS[n])
    queue.paused = call('EXISTS', P .. 'paused') == 1
    if queue.paused then
      queue.more = false
    else
      queue.due = due
    end
  end)
  if not ok then queue.error = type(problem) == 'table' and problem.err or tostring(problem) end
  wanted = wanted + count
  serve(queue, count)
end
for _, queue in ipairs(queues) do
  if taken >= wanted then break end
  serve(queue, wanted - taken)
end

local reply = {now}
for n, queue in ipairs(queues) do
  if queue.error == '' and not queue.paused and redis.pcall('LLEN', KEYS[n]) ~= 0 then queue.more = true end
  local leftovers = {}
  for i, id in ipairs(queue.dangling) do leftovers[i] = queue.P .. 't:' .. id end
  pcall(remove_leftovers, leftovers)
  reply[n + 1] = {queue.error, queue.runs, queue.due or false, queue.more and 1 or 0, queue.dangling,
      queue.wishes}
end
reply[#reply + 1] = longest
return reply
)lua";

// Puts what lost calls took back to pending, first in line, as if it had not been taken; of several
// queues unless in a cluster. But a task that was all that a call took, and whose message is longer than
// what that call could carry, goes last in line, so that others come before it; the third time it is archived,
// with the reason after its message, whose fields a reader takes last: it is not read back.
// KEYS: the queues'. ARGV: now, the age of the oldest of the calls, when it was sent by the clock that was then (''
// if that is not known), then of each the first 12 hex digits of its tokens, and the bytes that it could carry ('' if that was not why it was lost).
// Returns for each queue {error or '', how many, list of id, bytes, how often of those that were too long}.
constexpr std::string_view give_back = R"lua(
local call = redis.call
-- The clock may have jumped since, in either direction.
local since = math.min(now - tonumber(ARGV[3]), tonumber(ARGV[4]) or now) - 1000000
local blocks, counts = {}, {}
for n = 5, #ARGV, 2 do
  blocks[ARGV[n]] = tonumber(ARGV[n + 1]) or math.huge
  counts[ARGV[n]] = 0
end

-- The runs in question, the newest first. The head of active holds what was taken last, so there is no
-- need to look at more than what was taken since the first of the calls.
local function runs_of(P)
  local ids, owners, chunk = {}, {}, 200
  for at = 0, 4999, chunk do
    local found, older = call('LRANGE', P .. 'active', at, at + chunk - 1), false
    if #found == 0 then return ids, owners end
    local scores = call('ZMSCORE', P .. 'lease', unpack(found))
    for n, id in ipairs(found) do
      local run = scores[n] and read('HGET', P .. 't:' .. id, 'tmx_run')
      local token, score, taken = string.match(run or '', '^(%x+) (%d+) (%d+)')
      if token and score == scores[n] then
        local block = string.sub(token, 1, 12)
        if blocks[block] then
          ids[#ids + 1], owners[#owners + 1] = id, block
          counts[block] = counts[block] + 1
        elseif tonumber(taken) < since then
          older = true
        end
      end
    end
    if older then return ids, owners end
  end
  return ids, owners
end

-- Field 7 is the last error, field 11 when that was.
local function archive(P, id, key, message)
  local reason = 'its message of ' .. #message .. ' bytes is too large for the connection of a worker to the broker'
  message = message .. '\58' .. string.char(#reason) .. reason .. '\88' .. stamp
  call('HSET', key, 'state', 'archived', 'msg', message)
  call('HDEL', key, 'tmx_run', 'tmx_cancel', 'tmx_wish', 'tmx_slow')
  call('ZADD', P .. 'archived', now_s, id)
end

local function give_back(P, ids, owners)
  local first, too_long = {}, {}
  call('LLEN', P .. 'pending')
  call('ZCARD', P .. 'archived')
  call('ZREM', P .. 'lease', '')
  for n, id in ipairs(ids) do
    local key, most, message, times = P .. 't:' .. id, blocks[owners[n]], nil, 0
    if most < math.huge and counts[owners[n]] == 1 then message = call('HGET', key, 'msg') end
    if message and #message > most then
      times = (tonumber(call('HGET', key, 'tmx_slow') or '') or 0) + 1
      for _, value in ipairs({id, #message, times}) do too_long[#too_long + 1] = value end
    end
    call('LREM', P .. 'active', 1, id)
    if times >= 3 then
      archive(P, id, key, message)
    else
      give_up_run(key)
      call('HSET', key, 'state', 'pending', 'pending_since', now_ns)
      if times > 0 then
        call('HSET', key, 'tmx_slow', times)
        call('LPUSH', P .. 'pending', id)
      else
        first[#first + 1] = id
      end
    end
  end
  many('ZREM', P .. 'lease', ids)
  many('RPUSH', P .. 'pending', first)
  return {'', #ids, too_long}
end

-- What the calls took of all queues is counted before anything is given back.
local reply, found = {}, {}
local function try(n, work, ...)
  local ok, result, more = pcall(work, string.sub(KEYS[n], 1, -8), ...)
  if ok then return result, more end
  reply[n] = {type(result) == 'table' and result.err or tostring(result), 0, {}}
end
for n = 1, #KEYS do found[n] = {try(n, runs_of)} end
for n = 1, #KEYS do
  if not reply[n] then reply[n] = try(n, give_back, unpack(found[n])) or reply[n] end
end
return reply
)lua";

// Ends runs of one queue, each iff its token is the present one.
// KEYS: the queue's. ARGV: now, then for each run one of
//     d id token                               deletes it; counts as processed
//     c id token head tail retention facts     keeps it as completed, so many seconds
//     r id token head tail delay failed facts  to retry; failed is 0 or 1; a delay of 0 is last in
//                                              line, one of -1 first
//     a id token head tail facts               archives it
//     s id token delay facts                   schedules it again
//     q id token facts                         back to pending, first in line
// each of which `= result` and `! lock` may precede, in this order. Head and tail are the message
// round its time in seconds, or what follows the message that is there, if the head begins with `+` (as no
// message does): a reader takes the last value of a field. Facts are '' if they stay as they are, and else
// take the place of the first three words.
// Returns {1 or 0 (it was not the caller's) for each run, error of the counters or '', now}.
constexpr std::string_view settle = R"lua(
local call = redis.call
local width = {d = 3, c = 7, r = 8, a = 6, s = 5, q = 4}
local goal = {c = 'completed', r = 'retry', a = 'archived', s = 'scheduled'}
local starts, ids, number, results, locks = {}, {}, 0, {}, {}
do
  local at = 3
  while at <= #ARGV do
    number = number + 1
    local action = ARGV[at]
    if action == '=' then
      results[number], action = ARGV[at + 1], ARGV[at + 2]
      at = at + 2
    end
    if action == '!' then
      locks[number], action = ARGV[at + 1], ARGV[at + 2]
      at = at + 2
    end
    starts[number], ids[number] = at, ARGV[at + 1]
    at = at + width[action]
    if goal[action] then
      call('ZCARD', P .. goal[action])
      goal[action] = nil
    end
  end
end
local active = call('LLEN', P .. 'active')
call('LLEN', P .. 'pending')
call('ZCARD', P .. 'tmx:due')
local leases = call('ZMSCORE', P .. 'lease', unpack(ids))
call('ZREM', P .. 'lease', '')

-- Runs end in about the order in which they began, so the end of active holds most of a batch.
local window, fences = {}, {}
if #ids >= 4 then window = tail(P, 'active', #ids + 32, {'tmx_run'}) end
for i = 1, #window, 2 do fences[window[i]] = window[i + 1] or nil end

-- Whose runs they are, and which locks are theirs, before anything is changed.
local own, locked, done = {}, {}, {}
for n = 1, number do
  local id, score = ids[n], leases[n]
  if score and not done[id] then
    local fence = fences[id]
    if fence == nil then fence = read('HGET', T .. id, 'tmx_run') end
    if holds_run(fence, ARGV[starts[n] + 2], score) then
      own[n], done[id] = true, true
      locked[n] = locks[n] and holds(locks[n], id)
    end
  end
end

-- Takes ids out of active: those in the window together, the others one by one.
local function leave_active(ended)
  local removed, kept, popped, unmoved, left = {}, {}, 0, 0, 0
  for i = 1, #window, 2 do
    local id = window[i]
    if done[id] and not removed[id] then
      removed[id] = true
      popped = (i + 1) / 2
      unmoved = left
    else
      left = left + 1
      kept[left] = id
    end
  end
  if popped > 0 and popped == active then
    -- The list must not be gone in between: in a slot that is being moved it could not be made again.
    while #kept > unmoved do table.remove(kept) end
    many('LPUSH', P .. 'active', kept)
    call('RPOP', P .. 'active', popped)
  elseif popped > 0 then
    call('RPOP', P .. 'active', popped)
    local back = {}
    for n = unmoved, 1, -1 do back[#back + 1] = kept[n] end
    many('RPUSH', P .. 'active', back)
  end
  -- What the window does not hold began later; and tasks that run long may lie between it and the tail.
  local from = #window > 0 and 1 or -1
  for n = 1, #ended do
    if not removed[ended[n]] then call('LREM', P .. 'active', from, ended[n]) end
  end
end

-- Puts the id into a zset by time, rounded up to a second, and the precise time beside it.
local writes_due = false
local function wait_in(name, id, delay)
  local due = now + delay
  local score = seconds_up(due)
  call('ZADD', P .. name, score, id)
  if score * 1000000 ~= due then
    call('ZADD', P .. 'tmx:due', due, id)
    writes_due = true
  end
end

local replies, ended, gone = {}, {}, {}
local processed, failed, ended_count, gone_count = 0, 0, 0, 0
for n = 1, number do
  if own[n] then
    local id, at = ids[n], starts[n]
    local action, key = ARGV[at], T .. id
    replies[n] = 1
    ended_count = ended_count + 1
    ended[ended_count] = id
    if locked[n] then
      gone_count = gone_count + 1
      gone[gone_count] = locks[n]
    end
    if action == 'd' then
      gone_count = gone_count + 1
      gone[gone_count] = key
      processed = processed + 1
    else
      local facts, state, head, tail = '', nil, nil, nil
      if action == 'c' then
        state, head, tail, facts = 'completed', ARGV[at + 3], ARGV[at + 4], ARGV[at + 6]
        call('ZADD', P .. 'completed', seconds_up(now) + tonumber(ARGV[at + 5]), id)
        processed = processed + 1
      elseif action == 'r' then
        state, head, tail, facts = 'retry', ARGV[at + 3], ARGV[at + 4], ARGV[at + 7]
        local delay = tonumber(ARGV[at + 5])
        if delay > 0 then
          wait_in('retry', id, delay)
        else
          state = 'pending'
          call(delay < 0 and 'RPUSH' or 'LPUSH', P .. 'pending', id)
        end
        if ARGV[at + 6] == '1' then
          processed = processed + 1
          failed = failed + 1
        end
      elseif action == 'a' then
        state, head, tail, facts = 'archived', ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
        call('ZADD', P .. 'archived', now_s, id)
        processed = processed + 1
        failed = failed + 1
      elseif action == 's' then
        state, facts = 'scheduled', ARGV[at + 4]
        wait_in('scheduled', id, tonumber(ARGV[at + 3]))
      else
        state, facts = 'pending', ARGV[at + 3]
        call('RPUSH', P .. 'pending', id)
      end
      local fields = {'state', state}
      if head then
        if string.byte(head) == 43 then head = (call('HGET', key, 'msg') or '') .. string.sub(head, 2) end
        fields[#fields + 1] = 'msg'
        fields[#fields + 1] = head .. stamp .. tail
      end
      if results[n] then
        fields[#fields + 1] = 'result'
        fields[#fields + 1] = results[n]
      end
      if state == 'pending' then
        fields[#fields + 1] = 'pending_since'
        fields[#fields + 1] = now_ns
      end
      if facts ~= '' then
        fields[#fields + 1] = 'tmx_facts'
        fields[#fields + 1] = facts .. (string.match(call('HGET', key, 'tmx_facts') or '', '^%d+ %d+ %d+(.*)$') or '')
      end
      call('HSET', key, unpack(fields))
      if action == 'q' then
        give_up_run(key)
      else
        call('HDEL', key, 'tmx_run', 'tmx_cancel', 'tmx_wish', 'tmx_slow')
      end
    end
  else
    replies[n] = 0
  end
end
if writes_due then keep_due(P) end
leave_active(ended)
many('ZREM', P .. 'lease', ended)
remove_tasks(gone)
count(processed, failed)
return {replies, fault, now}
)lua";

// Extends leases of one queue.
// KEYS: the queue's. ARGV: now, length of the lease, then id, token, and whether it has begun (0 or 1)
// of each run.
// Returns for each: 0 it is not the caller's; 1 it is extended; or the mode in which an operator
// asked to cancel it, extended too.
constexpr std::string_view extend = R"lua(
local lease_end = text(seconds_up(now + tonumber(ARGV[3])))
local ids, leases, replies, fences = {}, {}, {}, {}
for at = 4, #ARGV, 3 do ids[#ids + 1] = ARGV[at] end
local scores = redis.call('ZMSCORE', P .. 'lease', unpack(ids))
for n, id in ipairs(ids) do
  local token, begun = ARGV[2 + 3 * n], ARGV[3 + 3 * n] == '1'
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
)lua";

// Sets runs aside whose message is not valid: archives each, with a message in place of the
// original, which it keeps as tmx_raw.
// KEYS: the queue's. ARGV: now, then id, token, head, tail of each (see settle).
// Returns for each: 1 done; 0 it is not the caller's.
constexpr std::string_view quarantine = R"lua(
redis.call('ZCARD', P .. 'archived')
local replies = {}
for at = 3, #ARGV, 4 do
  local id = ARGV[at]
  local score = redis.call('ZSCORE', P .. 'lease', id)
  if score and holds_run(read('HGET', T .. id, 'tmx_run'), ARGV[at + 1], score) then
    redis.call('LREM', P .. 'active', -1, id)
    redis.call('ZREM', P .. 'lease', id)
    redis.call('HSETNX', T .. id, 'tmx_raw', redis.call('HGET', T .. id, 'msg'))
    redis.call('HSET', T .. id, 'msg', ARGV[at + 2] .. stamp .. ARGV[at + 3], 'state', 'archived')
    -- The facts were of the message that is no more.
    redis.call('HDEL', T .. id, 'tmx_run', 'tmx_cancel', 'tmx_facts')
    redis.call('ZADD', P .. 'archived', now_s, id)
    replies[#replies + 1] = 1
  else
    replies[#replies + 1] = 0
  end
end
return replies
)lua";

// One step of upkeep; of several queues unless in a cluster.
// KEYS: the queues'. ARGV: now, how much to do in each role of each queue at most, length of the
// lease of lost runs that are taken over, whether to look for them (0 or 1), bytes of their
// messages at most, how much to do at most in the call (a queue that was begun is finished), then
// for each queue the first 12 hex digits of its tokens and the ranks at which to go on checking
// tmx:due and active, then the tokens of runs that are the caller's own. Returns now and, for each queue as far as the call came, at least one,
// {forwarded, expired, repaired, next due time or nil, whether there is more to do, a list of
// lost runs as acquire's, numbered from 0, next rank in tmx:due, in active, errors of roles, for
// each of the lost runs how far it had come (see begun_of in runs.hpp)}.
constexpr std::string_view upkeep = R"lua(
local limit, bytes, effort = tonumber(ARGV[3]), tonumber(ARGV[6]), tonumber(ARGV[7])
local lease_end = text(seconds_up(now + tonumber(ARGV[4])))
local any_lost = false
local own = {}
for n = 8 + 3 * #KEYS, #ARGV do own[ARGV[n]] = true end
local P, T, block, due_rank, active_rank
local forwarded, expired, repaired, more, due
local lost, lost_count, marks, errors

local function expire_completed()
  local ids = redis.call('ZRANGEBYSCORE', P .. 'completed', '-inf', now_s, 'LIMIT', 0, limit)
  local keys = {}
  for n, id in ipairs(ids) do keys[n] = T .. id end
  effort = effort - #ids
  remove_tasks(keys)
  many('ZREM', P .. 'completed', ids)
  expired = #ids
  if redis.call('ZCOUNT', P .. 'completed', '-inf', now_s) > 0 then more = true end
end

local function expire_ids()
  local ids = redis.call('ZRANGEBYSCORE', P .. 'tmx:ids', '-inf', now_text, 'LIMIT', 0, limit)
  effort = effort - #ids
  many('ZREM', P .. 'tmx:ids', ids)
  if #ids == limit then more = true end
end

-- Entries that no public score bears out: tasks that others have moved.
local function check_due()
  local found = redis.call('ZRANGE', P .. 'tmx:due', due_rank, due_rank + limit - 1, 'WITHSCORES')
  local unmatched = {}
  effort = effort - #found / 2
  for i = 1, #found, 2 do
    if not source_of(P, found[i], tonumber(found[i + 1])) then unmatched[#unmatched + 1] = found[i] end
  end
  many('ZREM', P .. 'tmx:due', unmatched)
  if #found > 0 and redis.call('TTL', P .. 'tmx:due') < due_seconds / 2 then keep_due(P) end
  due_rank = #found == 2 * limit and due_rank + limit - #unmatched or 0
end

-- Forgets an id in active that is no task's.
local function forget(id)
  redis.call('LREM', P .. 'active', -1, id)
  redis.call('ZREM', P .. 'lease', id)
  remove_leftovers({T .. id})
  repaired = repaired + 1
end

-- `words` are those of tmx_run after the score, if they are of the lost run.
local function take_over(id, task, words)
  bytes = bytes - #task[1]
  redis.call('ZREM', P .. 'lease', id)
  redis.call('ZADD', P .. 'lease', lease_end, id)
  if not words or words == '' then words = now_text end
  local run = block .. string.format('%04x', lost_count) .. ' ' .. lease_end .. ' ' .. words
  redis.call('HSET', T .. id, 'tmx_run', run)
  marks[#marks + 1] = string.match(words, '^%d* (%S+)') or ''
  for _, value in ipairs({id, task[1], task[2]}) do lost[#lost + 1] = value end
  lost_count = lost_count + 1
  any_lost = true
end

-- Whether there is room for one more lost run.
local function room_for(message)
  if lost_count < limit and (not any_lost or #message <= bytes) then return true end
  more = true
  return false
end

local function task_of(id)
  return read('HMGET', T .. id, 'msg', 'tmx_facts', 'state') or {}
end

-- Whether the caller runs it: its worker lives, and will extend the lease if nobody else takes it.
local function is_own(id, score)
  if next(own) == nil then return false end
  local run = read('HGET', T .. id, 'tmx_run') or ''
  return own[string.sub(run, 1, 16)] and string.find(run, ' ' .. score .. ' ', 17, true) == 17
end

-- Ours a second after the lease has ended, others' after 30, as asynq does.
local function recover()
  local found = redis.call('ZRANGEBYSCORE', P .. 'lease', '-inf', now_s - 1, 'WITHSCORES', 'LIMIT', 0, 1000)
  effort = effort - #found / 2
  for i = 1, #found, 2 do
    local id, score = found[i], found[i + 1]
    local words = words_after(read('HGET', T .. id, 'tmx_run'), score)
    if read('HEXISTS', T .. id, 'msg') ~= 1 then
      forget(id)
    elseif words or tonumber(score) <= now_s - 30 then
      local task = task_of(id)
      if task[3] ~= 'active' then
        redis.call('LREM', P .. 'active', -1, id)
        redis.call('ZREM', P .. 'lease', id)
        repaired = repaired + 1
      elseif is_own(id, score) then
        -- Nothing is to be done.
      elseif room_for(task[1]) then
        take_over(id, task, words)
      else
        return
      end
    end
  end
end

-- What no lease covers.
local function check_active()
  local ids = redis.call('LRANGE', P .. 'active', -(active_rank + limit), -(active_rank + 1))
  if #ids == 0 then
    active_rank = 0
    return
  end
  effort = effort - #ids
  local leases, removed = redis.call('ZMSCORE', P .. 'lease', unpack(ids)), 0
  for n, id in ipairs(ids) do
    if not leases[n] then
      local task = task_of(id)
      if not task[1] then
        forget(id)
        removed = removed + 1
      elseif task[3] ~= 'active' then
        redis.call('LREM', P .. 'active', -1, id)
        repaired = repaired + 1
        removed = removed + 1
      elseif room_for(task[1]) then
        take_over(id, task)
        repaired = repaired + 1
      end
    end
  end
  active_rank = #ids == limit and active_rank + limit - removed or 0
end

-- Sets whose aggregation did not end in time go back to their group, a part of a large one at a time.
local function reclaim_groups()
  local sets = redis.call('ZRANGEBYSCORE', P .. 'aggregation_sets', '-inf', now_s, 'LIMIT', 0, 10)
  for _, set in ipairs(sets) do
    local group = string.match(set, '^(.*):[^:]*$')
    local stem = P .. 'g:'
    local ours = group and #group > #stem and string.sub(group, 1, #stem) == stem
    if ours then
      redis.call('ZCARD', set)
      redis.call('ZCARD', group)
      redis.call('SCARD', P .. 'groups')
    end
    local back = ours and redis.call('ZRANGE', set, 0, 999, 'WITHSCORES') or {}
    local ids, entries = {}, {}
    for i = 1, #back, 2 do
      ids[#ids + 1] = back[i]
      entries[i], entries[i + 1] = back[i + 1], back[i]
    end
    effort = effort - #ids
    many('ZREM', set, ids)
    if #ids > 0 then
      for first = 1, #entries, 500 do
        redis.call('ZADD', group, 'LT', unpack(entries, first, math.min(first + 499, #entries)))
      end
      redis.call('SADD', P .. 'groups', string.sub(group, #stem + 1))
      repaired = repaired + 1
    end
    if #ids == 1000 then
      more = true
    else
      redis.call('ZREM', P .. 'aggregation_sets', set)
    end
  end
end

local function role(work)
  local ok, problem = pcall(work)
  if not ok then errors[#errors + 1] = type(problem) == 'table' and problem.err or tostring(problem) end
end

local function step(n)
  P = string.sub(KEYS[n], 1, -8)
  T = P .. 't:'
  block, due_rank, active_rank = ARGV[5 + 3 * n], tonumber(ARGV[6 + 3 * n]), tonumber(ARGV[7 + 3 * n])
  forwarded, expired, repaired, more, due = 0, 0, 0, false, nil
  lost, lost_count, marks, errors = {}, 0, {}, {}
  local paused = redis.call('EXISTS', P .. 'paused') == 1
  role(expire_completed)
  role(expire_ids)
  role(check_due)
  if ARGV[5] == '1' and not late then
    role(recover)
    role(check_active)
  end
  role(reclaim_groups)
  role(function()
    local dangling, unfinished
    forwarded, dangling, due, unfinished = forward(P, limit)
    effort = effort - forwarded - dangling
    repaired = repaired + dangling
    if unfinished then more = true end
  end)
  if paused then due = nil end
  return {forwarded, expired, repaired, due or false, more and 1 or 0, lost, due_rank,
      active_rank, errors, marks}
end

local replies = {now}
for n = 1, #KEYS do
  replies[n + 1] = step(n)
  if effort <= 0 then break end
end
return replies
)lua";

// Tells how queues stand, by reading alone; of several queues unless in a cluster. Redis tracks for
// a script the keys that are declared, or that it reads, according to its version: so all are both.
// KEYS: for each queue its paused, pending, scheduled, retry, tmx:due, tmx:canary. ARGV: now. Returns {now,
// whether anything is ready, next due time or nil}. A key of the wrong type is for acquire to
// complain of.
constexpr std::string_view look = R"lua(
local ready, next_due = 0, nil

local function head_of(key, unit)
  local head = redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not head[2] then return nil end
  return unit == 1 and math.min(math.floor(tonumber(head[2])), 8990000000000000) or due_of(head[2])
end

for n = 1, #KEYS, 6 do
  local paused = redis.pcall('EXISTS', KEYS[n], KEYS[n + 5]) == 1
  local pending = redis.pcall('LLEN', KEYS[n + 1])
  local due = head_of(KEYS[n + 2], 1000000)
  for at, unit in pairs({[n + 3] = 1000000, [n + 4] = 1}) do
    local head = head_of(KEYS[at], unit)
    if head and (not due or head < due) then due = head end
  end
  if not paused then
    if type(pending) == 'number' and pending > 0 then ready = 1 end
    if due and due <= now then ready = 1 end
    if due and (not next_due or due < next_due) then next_due = due end
  end
end
return {now, ready, next_due or false}
)lua";

// Tries whether the user may run the commands that serving a queue takes, on a string that exists
// only while this runs: for most of them of the wrong type, which is found out after the rights.
// KEYS: the queues'. Returns for each {command, error} of all that failed otherwise.
constexpr std::string_view try_rights = R"lua(
local commands = {
  {'LLEN'}, {'LRANGE', 0, 0}, {'LREM', 0, 'x'}, {'LPUSH', 'x'}, {'RPUSH', 'x'}, {'RPOP'},
  {'ZCARD'}, {'ZSCORE', 'x'}, {'ZMSCORE', 'x'}, {'ZRANGE', 0, 0}, {'ZRANGEBYSCORE', 0, 0}, {'ZCOUNT', 0, 0},
  {'ZADD', 1, 'x'}, {'ZREM', 'x'}, {'HGET', 'x'}, {'HMGET', 'x'}, {'HEXISTS', 'x'}, {'HSET', 'x', 'x'},
  {'HSETNX', 'x', 'x'}, {'HDEL', 'x'}, {'SCARD'}, {'SADD', 'x'}, {'SREM', 'x'}, {'EXISTS'}, {'GET'}, {'INCRBY', 1},
  {'EXPIRE', 1}, {'TTL'}, {'DEL'}, {'UNLINK'}, -- these two last: none may make the key anew
}

local function try(failed, command, key, ...)
  local reply = redis.pcall(command, key, ...)
  local fault = type(reply) == 'table' and reply.err
  if fault and not string.find(fault, 'WRONGTYPE', 1, true) then failed[#failed + 1] = {command, fault} end
end

local replies = {}
local time = redis.pcall('TIME')
for n = 1, #KEYS do
  local key, failed = string.sub(KEYS[n], 1, -8) .. 'tmx:rights', {}
  redis.pcall('UNLINK', key)
  if time.err then failed[1] = {'TIME', time.err} end
  try(failed, 'SET', key, 1, 'EX', 1)
  for _, command in ipairs(commands) do
    try(failed, command[1], key, unpack(command, 2))
  end
  replies[n] = failed
end
return replies
)lua";

// Lists a server, or its table of workers, for so many seconds; and writes what it tells of itself:
// its record and, from ARGV[at] on, task id and record of each of its workers.
constexpr std::string_view server_record = R"lua(
local function list_server(list, member, seconds)
  redis.call('ZREM', list, member)
  redis.call('ZADD', list, now_s + tonumber(seconds), member)
end

local function write_server(record, workers, seconds, bytes, at)
  redis.call('DEL', workers)
  redis.call('SET', record, bytes, 'EX', seconds)
  for n = at, #ARGV, 2 do redis.call('HSET', workers, ARGV[n], ARGV[n + 1]) end
  redis.call('EXPIRE', workers, seconds)
end
)lua";

// KEYS: the list of servers, the list of tables of workers, a server's record, its table of workers.
// ARGV: now, seconds to live, the record, then task id and record of each worker. For where the
// keys may lie together; in a cluster the two scripts that follow.
constexpr std::string_view heartbeat = R"lua(
list_server(KEYS[1], KEYS[3], ARGV[3])
list_server(KEYS[2], KEYS[4], ARGV[3])
write_server(KEYS[3], KEYS[4], ARGV[3], ARGV[4], 5)
return 1
)lua";

// KEYS: one of the lists. ARGV: now, seconds to live, the member.
constexpr std::string_view register_server = R"lua(
list_server(KEYS[1], ARGV[4], ARGV[3])
return 1
)lua";

// KEYS: a server's record, its table of workers. ARGV: as for heartbeat.
constexpr std::string_view write_server = R"lua(
write_server(KEYS[1], KEYS[2], ARGV[3], ARGV[4], 5)
return 1
)lua";

// KEYS: a list of servers or of tables of workers. ARGV: now. Returns its members that live, and
// removes the others.
constexpr std::string_view live_servers = R"lua(
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_s - 1)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now_s, '+inf')
)lua";

// KEYS: the queue's. ARGV: now. Returns {now, paused, pending, active, scheduled, retry, archived,
// completed, number of groups, time since which the next task is pending in ns or nil, processed today,
// failed today, processed, failed (each nil for none)}.
constexpr std::string_view queue_info = R"lua(
local oldest = redis.call('LINDEX', P .. 'pending', -1)
local since = oldest and read('HGET', T .. oldest, 'pending_since') or false
local today = day()
return {now, redis.call('EXISTS', P .. 'paused'), redis.call('LLEN', P .. 'pending'),
    redis.call('LLEN', P .. 'active'), redis.call('ZCARD', P .. 'scheduled'),
    redis.call('ZCARD', P .. 'retry'), redis.call('ZCARD', P .. 'archived'),
    redis.call('ZCARD', P .. 'completed'), redis.call('SCARD', P .. 'groups'), since,
    redis.call('GET', P .. 'processed:' .. today), redis.call('GET', P .. 'failed:' .. today),
    redis.call('GET', P .. 'processed'), redis.call('GET', P .. 'failed')}
)lua";

// KEYS: the queue's. ARGV: now, names of groups. Returns how many tasks each holds.
constexpr std::string_view group_sizes = R"lua(
local sizes = {}
for n = 3, #ARGV do sizes[#sizes + 1] = read('ZCARD', P .. 'g:' .. ARGV[n]) or 0 end
return sizes
)lua";

// describe(id, score) -> {id, score or nil, precise due time or nil, state, message, result, facts,
// run, group (each nil for none)}.
constexpr std::string_view describe = R"lua(
local function describe(id, state, score)
  local task = read('HMGET', T .. id, 'state', 'msg', 'result', 'tmx_facts', 'tmx_run', 'group') or {}
  local row = {id, score or false, false}
  for n = 1, 6 do row[n + 3] = task[n] or false end
  if state == 'scheduled' or state == 'retry' then
    row[3] = redis.call('ZSCORE', P .. 'tmx:due', id)
  end
  return row
end
)lua";

// KEYS: the queue's. ARGV: now, state, offset, how many, bytes of messages and results after which
// no other task is read, the group if the state is aggregating. Returns now, whether there is more of what was asked for (0 or 1), then
// describe() of each, at least of one.
constexpr std::string_view list = R"lua(
local state, offset, limit, bytes = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local reply, cut = {now, 0}, false

local function add(id, score)
  if bytes <= 0 then
    cut = true
    return
  end
  local row = describe(id, state, score)
  bytes = bytes - #(row[5] or '') - #(row[6] or '')
  reply[#reply + 1] = row
end

if state == 'pending' or state == 'active' then
  local ids = redis.call('LRANGE', P .. state, -(offset + limit), -(offset + 1))
  for n = #ids, 1, -1 do
    add(ids[n], state == 'active' and redis.call('ZSCORE', P .. 'lease', ids[n]))
  end
else
  local key = state == 'aggregating' and P .. 'g:' .. ARGV[7] or P .. state
  local found = redis.call('ZRANGE', key, offset, offset + limit - 1, 'WITHSCORES')
  for i = 1, #found, 2 do add(found[i], found[i + 1]) end
end
if cut then reply[2] = 1 end
return reply
)lua";

// KEYS: the queue's. ARGV: now, id. Returns {now, describe()}, or {now} if there is no such task.
constexpr std::string_view find = R"lua(
local id = ARGV[3]
local state = read('HGET', T .. id, 'state')
if not state then return {now} end
local score = false
if state == 'active' then
  score = redis.call('ZSCORE', P .. 'lease', id)
elseif state == 'scheduled' or state == 'retry' or state == 'archived' or state == 'completed' then
  score = redis.call('ZSCORE', P .. state, id)
end
return {now, describe(id, state, score)}
)lua";

// act(id, action, lock) on a task that is in no container any more; detach(id, state, group) takes it
// out of its own, and tells whether it could. lock_of(id), for action `remove`, is asked for before.
constexpr std::string_view act_on = R"lua(
local allowed = {
  run = {scheduled = true, retry = true, archived = true, completed = true},
  archive = {pending = true, scheduled = true, retry = true, completed = true},
  remove = {pending = true, scheduled = true, retry = true, archived = true, completed = true, aggregating = true},
}

local function detach(id, state, group)
  if state == 'pending' then
    redis.call('LREM', P .. 'pending', 0, id)
  elseif state == 'aggregating' then
    local key = P .. 'g:' .. (group or '')
    redis.call('SCARD', P .. 'groups')
    if redis.call('ZREM', key, id) == 0 then return false end
    if redis.call('EXISTS', key) == 0 then redis.call('SREM', P .. 'groups', group) end
  else
    redis.call('ZREM', P .. state, id)
    redis.call('ZREM', P .. 'tmx:due', id)
  end
  return true
end

-- The lock that a task holds, if any. asynq writes no such field for a task that it adds to a group:
-- then it is in the message, which for all others may be large and is not read.
local function lock_of(id)
  local task = read('HMGET', T .. id, 'unique_key', 'group') or {}
  local lock = task[1]
  if not lock and task[2] then
    local message = redis.call('HGET', T .. id, 'msg')
    lock = message and last_field(message, 82)
  end
  if type(lock) == 'string' and string.sub(lock, 1, #P + 7) == P .. 'unique:' and holds(lock, id) then return lock end
end

local function act(id, action, lock)
  local key = T .. id
  if action == 'run' then
    redis.call('LPUSH', P .. 'pending', id)
    redis.call('HSET', key, 'state', 'pending', 'pending_since', now_ns)
    local facts = redis.call('HGET', key, 'tmx_facts')
    if crashes_of(facts) > 0 then
      redis.call('HSET', key, 'tmx_facts', (string.gsub(facts, '^(%d+ %d+) %d+', '%1 0')))
    end
  elseif action == 'archive' then
    redis.call('ZADD', P .. 'archived', now_s, id)
    redis.call('HSET', key, 'state', 'archived')
    redis.call('HDEL', key, 'pending_since', 'tmx_cancel', 'tmx_wish')
  else
    if lock then redis.call('DEL', lock) end
    redis.call('UNLINK', key)
  end
end

redis.call('LLEN', P .. 'pending')
redis.call('ZCARD', P .. 'archived')
redis.call('ZCARD', P .. 'tmx:due')
)lua";

// KEYS: the queue's. ARGV: now, action, the only state to act on ('' = any), ids.
// Returns for each, in their order: 0 done; 1 there is no such task; 2 it is in a state that does not
// allow it. To take a task out of pending walks the list: a call ends after walking a million ids, at
// least one task, and its reply then is of the first ids only.
constexpr std::string_view act = R"lua(
local action, only = ARGV[3], ARGV[4]
local replies, walked = {}, 0
for at = 5, #ARGV do
  if walked >= 1000000 then break end
  local id = ARGV[at]
  local task = read('HMGET', T .. id, 'state', 'group') or {}
  local state = task[1]
  if not state then
    replies[#replies + 1] = 1
  elseif (only ~= '' and state ~= only) or not allowed[action][state] then
    replies[#replies + 1] = 2
  elseif action ~= 'remove' and redis.call('HEXISTS', T .. id, 'msg') == 0 then
    replies[#replies + 1] = 1
  else
    local lock = action == 'remove' and lock_of(id)
    if state == 'pending' then walked = walked + redis.call('LLEN', P .. 'pending') end
    if detach(id, state, task[2]) then
      act(id, action, lock)
      replies[#replies + 1] = 0
    else
      replies[#replies + 1] = 2
    end
  end
end
return replies
)lua";

// KEYS: the queue's. ARGV: now, action, state, how many. Returns {tasks acted on, ids taken up
// (some may have had no task)}.
constexpr std::string_view act_all = R"lua(
local action, state, limit = ARGV[3], ARGV[4], tonumber(ARGV[5])
local ids, groups = {}, {}
if state == 'pending' then
  local found = redis.call('LRANGE', P .. 'pending', -limit, -1)
  for n = #found, 1, -1 do ids[#ids + 1] = found[n] end
elseif state == 'aggregating' then
  for _, group in ipairs(redis.call('SMEMBERS', P .. 'groups')) do
    for _, id in ipairs(redis.call('ZRANGE', P .. 'g:' .. group, 0, limit - #ids - 1)) do
      ids[#ids + 1] = id
      groups[#ids] = group
    end
    if #ids >= limit then break end
  end
else
  ids = redis.call('ZRANGE', P .. state, 0, limit - 1)
end
local here, leftovers, locks = {}, {}, {}
for _, id in ipairs(ids) do
  local exists = read('HEXISTS', T .. id, 'msg')
  if exists == 1 or (exists == 0 and action == 'remove') then
    here[#here + 1] = id
    locks[id] = action == 'remove' and lock_of(id)
  else
    leftovers[#leftovers + 1] = T .. id
  end
end
if state == 'pending' then
  if #ids > 0 then redis.call('RPOP', P .. 'pending', #ids) end
elseif state == 'aggregating' then
  for n, id in ipairs(ids) do detach(id, state, groups[n]) end
else
  many('ZREM', P .. state, ids)
  many('ZREM', P .. 'tmx:due', ids)
end
for _, id in ipairs(here) do act(id, action, locks[id]) end
remove_leftovers(leftovers)
return {#here, #ids}
)lua";

// excess(archived): how many tasks of an archive are beyond its limits. ARGV: now, how many tasks an
// archive may hold, for how long it may hold one.
constexpr std::string_view excess = R"lua(
local max_tasks = tonumber(ARGV[3])
local oldest_allowed = string.format('(%.6f', (now - tonumber(ARGV[4])) / 1000000)

local function excess(archived)
  local too_old = redis.call('ZCOUNT', archived, '-inf', oldest_allowed)
  return math.max(redis.call('ZCARD', archived) - max_tasks, too_old, 0)
end
)lua";

// Looks at the archives of several queues, unless in a cluster.
// KEYS: the archives. ARGV: those of excess(). Returns for each its excess, or what is wrong with it.
constexpr std::string_view archives = R"lua(
local replies = {}
for n, archived in ipairs(KEYS) do
  local ok, reply = pcall(excess, archived)
  replies[n] = ok and reply or type(reply) == 'table' and reply.err or tostring(reply)
end
return replies
)lua";

// KEYS: the queue's. ARGV: those of excess(), how many may be deleted. Returns {tasks deleted, how
// many are still beyond the limits}.
constexpr std::string_view trim = R"lua(
local archived, limit = P .. 'archived', tonumber(ARGV[5])
local count = math.min(excess(archived), limit)
if count == 0 then return {0, excess(archived)} end
local ids, keys, locks, deleted = redis.call('ZRANGE', archived, 0, count - 1), {}, {}, 0
for _, id in ipairs(ids) do
  local exists = read('HEXISTS', T .. id, 'msg')
  if exists then
    keys[#keys + 1] = T .. id
    locks[#locks + 1] = lock_of(id)
    deleted = deleted + exists
  end
end
many('ZREM', archived, ids)
remove_tasks(locks)
remove_tasks(keys)
return {deleted, excess(archived)}
)lua";

// Replaces a message if it still is the one that was read.
// KEYS: the queue's. ARGV: now, id, old message, new message.
// Returns 0 done; 1 there is no such task; 2 its state does not allow it; 3 it has changed.
constexpr std::string_view update_message = R"lua(
local task = read('HMGET', T .. ARGV[3], 'state', 'msg') or {}
if not task[2] then return 1 end
local state = task[1]
if state ~= 'pending' and state ~= 'scheduled' and state ~= 'retry' and state ~= 'archived' then return 2 end
if task[2] ~= ARGV[4] then return 3 end
redis.call('ZREM', P .. 'tmx:due', '')
redis.call('HSET', T .. ARGV[3], 'msg', ARGV[5])
return 0
)lua";

// KEYS: the queue's. ARGV: now. Returns 1, or 0 if the queue is paused already.
constexpr std::string_view pause = R"lua(
if redis.call('EXISTS', P .. 'paused') == 1 then return 0 end
redis.call('ZREM', P .. 'tmx:due', '')
redis.call('SET', P .. 'paused', now_s)
return 1
)lua";

// Records the wish to cancel a run, and publishes it where its worker hears it: a run of ours as a
// message that names its queue; a Go worker's also as an id alone, which it takes the whole message
// for. Nothing is changed where publishing is refused.
// KEYS: the queue's. ARGV: now, id, mode, asynq's channel, ours, the message for ours if the run is
// ours, and if it is not.
// Returns 0 done; 1 there is no such task; 2 it is not active.
constexpr std::string_view cancel = R"lua(
local id = ARGV[3]
local task = read('HMGET', T .. id, 'state', 'tmx_run') or {}
if not task[1] then return 1 end
if task[1] ~= 'active' then return 2 end
local score = redis.call('ZSCORE', P .. 'lease', id)
local ours = score and task[2] and holds_run(task[2], string.sub(task[2], 1, 16), score)
redis.call('ZREM', P .. 'tmx:due', '')
local told = redis.pcall('PUBLISH', ARGV[6], ours and ARGV[7] or ARGV[8])
if not ours and type(told) == 'number' then told = redis.pcall('PUBLISH', ARGV[5], id) end
if type(told) ~= 'number' then return told end
redis.call('HSET', T .. id, 'tmx_cancel', ARGV[4])
return 0
)lua";

// One step of the deletion of a queue.
// KEYS: the queue's. ARGV: now, 1 to delete tasks too, how many tasks at most.
// Returns 0 nothing is left; 1 there is more to do, and the queue is paused until then; 2 tasks are
// active; 3 there are tasks.
constexpr std::string_view empty_queue = R"lua(
if redis.call('LLEN', P .. 'active') > 0 then return 2 end
local limit = tonumber(ARGV[4])
local zsets = {'scheduled', 'retry', 'archived', 'completed'}
local groups, sets = {}, redis.call('ZRANGE', P .. 'aggregation_sets', 0, -1)
for n, name in ipairs(redis.call('SMEMBERS', P .. 'groups')) do groups[n] = P .. 'g:' .. name end
local tasks = redis.call('LLEN', P .. 'pending')
for _, name in ipairs(zsets) do tasks = tasks + redis.call('ZCARD', P .. name) end
for _, keys in ipairs({groups, sets}) do
  for _, key in ipairs(keys) do
    if string.sub(key, 1, #P) == P then tasks = tasks + redis.call('ZCARD', key) end
  end
end
if tasks > 0 and ARGV[3] ~= '1' then return 3 end
if tasks > 0 then
  redis.call('ZREM', P .. 'tmx:due', '')
  redis.call('SET', P .. 'paused', now_s)
  local ids, places, locks = redis.call('LRANGE', P .. 'pending', -limit, -1), {}, {}
  local of_pending = #ids
  local function gather(key)
    if #ids >= limit then return end
    local found = redis.call('ZRANGE', key, 0, limit - #ids - 1)
    places[#places + 1] = {key, found}
    for _, id in ipairs(found) do ids[#ids + 1] = id end
  end
  for _, name in ipairs(zsets) do gather(P .. name) end
  for _, keys in ipairs({groups, sets}) do
    for _, key in ipairs(keys) do
      if string.sub(key, 1, #P) == P then gather(key) end
    end
  end
  for _, id in ipairs(ids) do locks[id] = lock_of(id) end
  if of_pending > 0 then redis.call('RPOP', P .. 'pending', of_pending) end
  for _, place in ipairs(places) do many('ZREM', place[1], place[2]) end
  for _, id in ipairs(ids) do
    if read('HLEN', T .. id) then act(id, 'remove', locks[id]) end
  end
  if tasks > #ids then return 1 end
end
local names = {'pending', 'active', 'lease', 'scheduled', 'retry', 'archived', 'completed', 'groups',
    'aggregation_sets', 'tmx:due', 'tmx:ids', 'paused', 'processed', 'failed'}
for _ = 0, 91 do
  names[#names + 1] = 'processed:' .. day()
  names[#names + 1] = 'failed:' .. day()
  now_s = now_s - 86400
end
for n, name in ipairs(names) do names[n] = P .. name end
redis.call('UNLINK', unpack(names))
return 0
)lua";

std::string join(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (const std::string_view part : parts) text.append(part);
  return text;
}

}  // namespace

Scripts::Scripts()
    : enqueue{"enqueue", join({one_queue, clock, read, many, due_life, redis::enqueue})},
      give_back{"give_back", join({clock, read, many, splice, redis::give_up_run, redis::give_back})},
      acquire{"acquire",
              join({clock, read, due_of, crashes_of, many, redis::tail, protobuf, forward,
                    redis::acquire})},
      settle{"settle", join({one_queue, clock, read, fence, give_up_run, many, due_life, redis::tail,
                             splice, statistics, locks, redis::settle})},
      extend{"extend", join({one_queue, clock, read, fence, many, redis::extend})},
      quarantine{"quarantine", join({one_queue, clock, read, fence, splice, redis::quarantine})},
      upkeep{"upkeep", join({clock, read, fence, due_of, crashes_of, many, due_life, forward,
                             redis::upkeep})},
      look{"look", join({clock, due_of, redis::look})},
      try_rights{"try_rights", std::string{redis::try_rights}},
      heartbeat{"heartbeat", join({clock, server_record, redis::heartbeat})},
      register_server{"register_server", join({clock, server_record, redis::register_server})},
      write_server{"write_server", join({clock, server_record, redis::write_server})},
      live_servers{"live_servers", join({clock, redis::live_servers})},
      queue_info{"queue_info", join({one_queue, clock, read, statistics, redis::queue_info})},
      group_sizes{"group_sizes", join({one_queue, clock, read, redis::group_sizes})},
      list{"list", join({one_queue, clock, read, describe, redis::list})},
      find{"find", join({one_queue, clock, read, describe, redis::find})},
      act{"act",
          join({one_queue, clock, read, many, protobuf, locks, crashes_of, act_on, redis::act})},
      act_all{"act_all",
              join({one_queue, clock, read, many, protobuf, locks, crashes_of, act_on,
                    redis::act_all})},
      archives{"archives", join({clock, excess, redis::archives})},
      trim{"trim", join({one_queue, clock, read, many, protobuf, locks, crashes_of, act_on, excess,
                         redis::trim})},
      update_message{"update_message", join({one_queue, clock, read, redis::update_message})},
      pause{"pause", join({one_queue, clock, redis::pause})},
      cancel{"cancel", join({one_queue, clock, read, fence, redis::cancel})},
      empty_queue{"empty_queue", join({one_queue, clock, read, statistics, many, protobuf, locks,
                                       crashes_of, act_on, redis::empty_queue})} {}

std::vector<const Script*> Scripts::all() const {
  return {&enqueue, &give_back, &acquire, &settle, &extend, &quarantine, &upkeep, &look,
          &try_rights, &heartbeat, &register_server, &write_server, &live_servers, &queue_info,
          &group_sizes, &list, &find, &act, &act_all, &archives, &trim, &update_message, &pause, &cancel,
          &empty_queue};
}

const Scripts& scripts() {
  static const Scripts instance;
  return instance;
}

}  // namespace taskmux::redis
