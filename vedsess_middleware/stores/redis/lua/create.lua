-- ttl, commit id, name, value, ... -> 1, or 0 where something else is there already
local ttl, commit = tonumber(ARGV[1]), ARGV[2]
if redis.call('EXISTS', key) == 1 then
  return redis.call('HGET', key, 'commit') == commit and 1 or 0
end
local fields = {'commit', commit}
for i = 3, #ARGV do fields[i] = ARGV[i] end
hset(fields)
redis.call('PEXPIRE', key, ttl)
return 1
