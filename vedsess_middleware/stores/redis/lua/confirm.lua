-- member, score, ... -> nothing; a member whose score has changed was written again, and stays
for i = 1, #ARGV, 2 do
  local score = redis.call('ZSCORE', key, ARGV[i])
  if score and tonumber(score) == tonumber(ARGV[i + 1]) then redis.call('ZREM', key, ARGV[i]) end
end
return 0
