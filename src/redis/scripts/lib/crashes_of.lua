-- uses:

-- crashes_of(facts): the number of crashes in a row according to tmx_facts. Most facts are one word of 16 characters,
-- which means none.
local function crashes_of(facts)
  if not facts or #facts == 16 then return 0 end
  return tonumber(string.match(facts, '^%d+ %d+ (%d+)') or '0')
end
