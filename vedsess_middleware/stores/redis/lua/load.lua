-- token, 1 if the copy may not be used, lease -> {"gone" | "hit" | "miss", the hash}
--
-- hit: a live copy of this epoch that covers the token.  Where nothing is, a miss leaves its lease, on a stub.
local token, denied, lease = ARGV[1], ARGV[2], ARGV[3]
local gone, version, of_epoch, leased = unpack(redis.call('HMGET', key, 'gone', 'version', 'epoch', 'lease'))
if gone then return {'gone', redis.call('HGETALL', key)} end
if version and is_of(of_epoch) and denied == '0' and covers(version, token) then
  return {'hit', redis.call('HGETALL', key)}
end
if lease ~= '' and not version and (leased or redis.call('EXISTS', key) == 0) then
  redis.call('HSET', key, 'lease', lease)
  redis.call('PEXPIRE', key, 3000)
end
return {'miss', redis.call('HGETALL', key)}
