-- at -> 1 if the use was recorded, 0 where the session is over or nothing is there
local at = tonumber(ARGV[1])
local gone, of_epoch, used, life, ends = unpack(redis.call('HMGET', key, 'gone', 'epoch', 'last_activity', 'life', 'expires_at'))
local now = iso(at)
if gone or not (used and life and ends) or not is_of(of_epoch) or used >= now or ends <= now then return 0 end
local expires = ends_at(at, life)
if expires <= at then return 0 end
redis.call('HSET', key, 'last_activity', now, 'expires_at', iso(expires))
redis.call('PEXPIRE', key, expires - at)
return 1
