-- now, as in the record; at, until, a word of this attempt -> number of the lock, or 0 where it is not given
local now, at, ends, word = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local gone, version, expires, lock = unpack(redis.call('HMGET', key, 'gone', 'version', 'expires_at', 'lock'))
if gone or not (version and expires) or expires <= now then return 0 end
local number, held, holder = string.match(lock or '', '^(%d+) (%d+) (%S+)$')
if holder ~= word then
  if holder and tonumber(held) > at then return 0 end
  -- Higher than any before it, also than those that were lost with an earlier hash.
  number = string.format('%d', math.max((tonumber(number) or 0) + 1, at))
end
redis.call('HSET', key, 'lock', table.concat({number, ends, word}, ' '))
return number
