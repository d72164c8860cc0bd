-- at, refresh -> {whether the use was recorded, the hash}
local at, refresh = tonumber(ARGV[1]), tonumber(ARGV[2])
local state = redis.call('HMGET', key, 'last_activity', 'life', 'expires_at')
local touched = 0
if state[1] and state[2] and state[3] and state[1] < iso(at - refresh) and touch(at, state[2], state[3]) then touched = 1 end
return {touched, redis.call('HGETALL', key)}
