-- ttl, commit id, name, value, ... -> 1, or 0 where something else is there already
local ttl, commit = tonumber(ARGV[1]), ARGV[2]
if redis.call('EXISTS', key) == 1 then
  if redis.call('HGET', key, 'commit') == commit then return 1 end
  local there = redis.call('HGETALL', key)
  if #there ~= 2 or there[1] ~= 'lease' then return 0 end
  redis.call('DEL', key)
end
local fields = {'commit', commit}
for i = 3, #ARGV do fields[i] = ARGV[i] end
hset(fields)
redis.call('HSET', key, 'epoch', epoch)
redis.call('PEXPIRE', key, ttl)
return 1
