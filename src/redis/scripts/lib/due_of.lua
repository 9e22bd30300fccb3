-- uses:

-- due_of(score): the instant from which a public score is due, clamped to what can be counted: others may write
-- fractions, or infinity.
local function due_of(score)
  return math.max(0, math.min(math.ceil(tonumber(score)), 8990000000)) * 1000000
end
