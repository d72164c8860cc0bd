-- Whether every write that `other` knows of is in `version` too.
local function covers(version, other)
  local s, r = split(version)
  local other_s, other_r = split(other)
  return s and s >= other_s and r >= other_r
end

-- The later of two texts in the order of their bytes: `<` would ask the server's locale.
local function later(a, b)
  if a == b then return a end
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y and a or b end
  end
  return #a > #b and a or b
end

-- Leaves a tombstone for as long as an old copy could live: version, when, until, a word of the attempt, and the key
-- that the session went on under, where it did.
local function bury(version, ended, last, left, word, successor)
  local words = {version, ended, last, word}
  if successor ~= '' then words[5] = successor end
  redis.call('DEL', key)
  redis.call('HSET', key, 'gone', table.concat(words, ' '))
  redis.call('PEXPIRE', key, left)
end
