-- uses:

-- crashes_of(facts): the crashes in a row that tmx_facts tell of. Most facts are one word of 16
-- characters, which says that there are none.
local function crashes_of(facts)
  if not facts or #facts == 16 then return 0 end
  return tonumber(string.match(facts, '^%d+ %d+ (%d+)') or '0')
end
