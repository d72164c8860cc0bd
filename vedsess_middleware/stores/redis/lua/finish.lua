-- at, ttl, a word of this attempt -> {1, or 0 where another attempt had ended the session before, its user}
local at, ttl, word = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local state = redis.call('HMGET', key, 'gone', 'version', 'user_id')
if state[1] then return {string.sub(state[1], -#word) == word and 1 or 0, ''} end
local s, r = split(state[2] or '0.0')
if not s then s, r = 0, 0 end
local left = math.max(redis.call('PTTL', key), ttl)
bury(s .. '.' .. (r + 1), iso(at), iso(at + left), left, word)
return {1, state[3] or ''}
