-- at, refresh, token, 1 if the copy may not be used, lease -> {"gone" | "hit" | "miss", whether the use was recorded, the hash}
--
-- hit: a live copy of this epoch that covers the token.  Where nothing is, a miss leaves its lease, on a stub.
local at, refresh, token, denied, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local state = redis.call('HMGET', key, 'gone', 'version', 'epoch', 'last_activity', 'life', 'expires_at', 'lease')
local gone, version, of_epoch, used, life, ends, leased = unpack(state)
if gone then return {'gone', 0, redis.call('HGETALL', key)} end

local touched = 0
local current = version and is_of(of_epoch) and denied == '0'
if current and used and life and ends and used < iso(at - refresh) and touch(at, life, ends) then touched = 1 end
if current and covers(version, token) then return {'hit', touched, redis.call('HGETALL', key)} end

if lease ~= '' and not version and (leased or redis.call('EXISTS', key) == 0) then
  redis.call('HSET', key, 'lease', lease)
  redis.call('PEXPIRE', key, 3000)
end
return {'miss', touched, redis.call('HGETALL', key)}
