-- at, ttl, a word of this attempt, the key that the session goes on under or '', its version as it is known or ''
-- -> {1, or 0 where another attempt had ended the session before; its user; its sid; the hash, if it is of another version;
-- the key that it had gone on under}
--
-- A tombstone that names the same successor is this attempt's own: the other store had it first, and somebody copied it.
local at, ttl, word = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local state = redis.call('HMGET', key, 'gone', 'version', 'user_id', 'sid', 'life')
if state[1] then
  local attempt, successor = string.match(state[1], '^%S+ %S+ %S+ (%S+) ?(%S*)$')
  local own = attempt == word or (ARGV[4] ~= '' and successor == ARGV[4])
  return {own and 1 or 0, '', '', {}, successor or ''}
end
local s, r = split(state[2] or '0.0')
if not s then s, r = 0, 0 end
-- A copy that is used at this moment somewhere else lives for its idle time, which is a foreign value at worst.
local idle = math.min(tonumber(string.match(state[5] or '', '^(%d+):%d+$')) or 0, 1e12)
local left = math.max(redis.call('PTTL', key), ttl, idle)
local reply = {1, state[3] or '', state[4] or '', {}, ''}
if ARGV[5] ~= '' and state[2] and state[2] ~= ARGV[5] then reply[4] = redis.call('HGETALL', key) end
bury(s .. '.' .. (r + 1), iso(at), iso(at + left), left, word, ARGV[4])
return reply
