-- number of the lock -> 1 if it was given back, 0 where it is somebody else's
local number = string.match(redis.call('HGET', key, 'lock') or '', '^(%d+) ')
if number ~= ARGV[1] then return 0 end
redis.call('HSET', key, 'lock', number .. ' 0 -')
return 1
