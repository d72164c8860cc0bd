-- at, places, key of the session to come, until when one is kept for it, ttl of the index in seconds, until when those
-- have lost theirs lately who have not been ended yet for too long, 1: whoever would end first has to leave -> {1, keys that have to} | {0, all keys that have a place}
--
-- The score of a session is its end; of a place that is kept for one, until when, below zero.  Who loses a place is noted
-- as `x:<key>` for as long, and counts no more: it stays listed until it is ended, and whoever comes meanwhile hears of it.
local at, places, comes, to_last = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
redis.call('ZREMRANGEBYSCORE', key, '-' .. at, at)
local listed = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
local late, is_repeat = tonumber(ARGV[6]), (tonumber(redis.call('ZSCORE', key, comes) or 1)) < 0
local leave, lost, taken, kept, is_stored = {}, {}, {}, {}, false
for i = 1, #listed, 2 do
  if string.sub(listed[i], 1, 2) == 'x:' then
    local member = string.sub(listed[i], 3)
    lost[member] = true
    if is_repeat or -listed[i + 1] <= late then leave[#leave + 1] = member end
  end
end
for i = 1, #listed, 2 do
  local member, score = listed[i], tonumber(listed[i + 1])
  if member == comes then is_stored = score > 0
  elseif lost[member] or string.sub(member, 1, 2) == 'x:' then  -- is on its way out
  elseif score > 0 then taken[#taken + 1] = member
  else kept[#kept + 1] = member
  end
end
for i = #kept, 1, -1 do taken[#taken + 1] = kept[i] end
if #taken >= places and ARGV[7] == '0' then return {0, taken} end
for i = 1, #taken - places + 1 do
  leave[#leave + 1] = taken[i]
  redis.call('ZADD', key, '-' .. to_last, 'x:' .. taken[i])
end
if not is_stored then redis.call('ZADD', key, '-' .. to_last, comes) end
redis.call('EXPIRE', key, ARGV[5])
return {1, leave}
