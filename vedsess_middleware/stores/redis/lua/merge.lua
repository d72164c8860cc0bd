-- at, ttl, 1 if a tombstone comes, lease, name, value, ... of a whole record -> the hash after it was merged in
--
-- The same merge as `record.merge`: fields by stamp, versions joined, a tombstone wins.  Where nothing is, a record is
-- written by the holder of the lease alone, or of "*": whoever read it earlier may have read an old one.
local at, ttl, gone, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local state = redis.call('HMGET', key, 'gone', 'version', 'expires_at', 'lease')
if not state[1] and not state[2] and gone == '0' and lease ~= '*' and lease ~= state[4] then
  if lease == '' then redis.call('HDEL', key, 'lease') end  -- who holds it may have read an older row
  return {}
end
local buried, ended, last, word, successor = string.match(state[1] or '', '^(%S+) (%S+) (%S+) (%S+) ?(%S*)$')
local incoming = {}
for i = 5, #ARGV, 2 do incoming[ARGV[i]] = ARGV[i + 1] end

local s, r = split(buried or state[1] or state[2] or '0.0')
if not s then  -- not a record: the one that comes takes its place
  redis.call('DEL', key)
  s, r, state = 0, 0, {}
end
local other_s, other_r = split(incoming.version)
local version = math.max(s, other_s) .. '.' .. math.max(r, other_r)
local left = math.max((state[1] or state[2]) and redis.call('PTTL', key) or 0, ttl, 1)
if buried or gone == '1' then
  ended = later(ended or '', gone == '1' and iso(at) or '')
  last = later(last or state[2] and state[3] or '', incoming.expires_at or iso(at + ttl))
  bury(version, ended, last, left, word or '-', later(successor or '', incoming.successor or ''))
  return redis.call('HGETALL', key)
end

local function newer(mine, theirs)
  local my_stamp, my_value = string.match(mine, '^(%d+%.%d+):(.*)$')
  if not my_stamp then return true end
  local stamp, value = string.match(theirs, '^(%d+%.%d+):(.*)$')
  local my_s, my_r = split(my_stamp)
  local their_s, their_r = split(stamp)
  if my_s ~= their_s then return their_s > my_s end
  if my_r ~= their_r then return their_r > my_r end
  return later(my_value, value) == value
end

local function shorter(mine, theirs)
  local my_idle, my_deadline = string.match(mine, '^(%d+):(%d+)$')
  if not my_idle then return theirs end
  local idle, deadline = string.match(theirs, '^(%d+):(%d+)$')
  return string.format('%d:%d', math.min(my_idle, idle), math.min(my_deadline, deadline))
end

local changes = {}
for name, value in pairs(incoming) do
  local mine = redis.call('HGET', key, name)
  if name == 'version' then value = version
  elseif not mine then value = value
  elseif name == 'life' then value = shorter(mine, value)
  elseif name == 'created_at' then value = mine < value and mine or value
  elseif string.sub(name, 1, 2) == 'd:' then value = newer(mine, value) and value or mine
  else value = later(mine, value)
  end
  changes[#changes + 1] = name
  changes[#changes + 1] = value
end
hset(changes)
redis.call('HSET', key, 'epoch', epoch)
redis.call('HDEL', key, 'lease')
redis.call('PEXPIRE', key, left)
return redis.call('HGETALL', key)
