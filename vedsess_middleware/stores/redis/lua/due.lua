-- A second key is the list of what is due: the entry, its number, and the list's time to live come before all else.
if KEYS[2] then
  redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
  for i = 4, #ARGV do ARGV[i - 3] = ARGV[i] end
  for _ = 1, 3 do table.remove(ARGV) end
end
