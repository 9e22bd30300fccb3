-- uses:

-- The contents of tmx_run: 16 hex digits of a token, the score of the lease, when the run was taken, and a mark (see
-- begun_of in runs.hpp); later versions may add words, which are preserved. holds_run(run, token, score): whether it
-- has the caller's token and the present score of the lease. words_after(run, score): the words after the score; nil if
-- it belongs to another lease.
local find, last_score, between = string.find, nil, nil

local function holds_run(run, token, score)
  if score ~= last_score then last_score, between = score, ' ' .. score .. ' ' end -- most are the same
  return run and #token == 16 and find(run, token, 1, true) == 1 and find(run, between, 17, true) == 17
end

local function words_after(run, score)
  if run and find(run, ' ' .. score .. ' ', 17, true) == 17 then return string.sub(run, 19 + #score) end
end
