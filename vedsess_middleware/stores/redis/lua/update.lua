-- at, base, known version, commit id, 1 if the whole record is wanted, number of fields, name, value, ..., forgotten
-- names -> {"ok", version, its end, when it was used before, user, hash} | {"gone", version} | {"absent"} | {"behind"}
local at, base, known, commit = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local names = {'version', 'gone', 'commit', 'life', 'user_id', 'last_activity', 'expires_at', 'epoch'}
local version, gone, last_commit, life, user, used, ends, of_epoch = unpack(redis.call('HMGET', key, unpack(names)))
if gone then return {'gone', gone} end
local now = iso(at)
if not version or not is_of(of_epoch) or ends <= now then return {'absent'} end

local s, r = split(version)
local changes, first_forgotten = {}, #ARGV + 1
if last_commit ~= commit then
  -- Only onto a copy that holds all the browser has seen, and that SQL has taken no write past: else SQL merges.
  local base_s, base_r = split(base)
  if s ~= base_s or r < base_r then return {'behind'} end
  r = r + 1
  version = s .. '.' .. r
  changes = {'version', version, 'commit', commit, 'updated_at', now}
  first_forgotten = 7 + 2 * ARGV[6]
  local n = 6
  for i = 7, first_forgotten - 1, 2 do
    changes[n + 1], changes[n + 2], n = ARGV[i], version .. ':' .. ARGV[i + 1], n + 2
  end
end
local expires, n = ends_at(at, life), #changes
if expires > at then
  changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4] = 'last_activity', now, 'expires_at', iso(expires)
else
  expires = 0
end
hset(changes)
for i = first_forgotten, #ARGV do redis.call('HDEL', key, ARGV[i]) end
if expires > 0 then redis.call('PEXPIRE', key, expires - at) end

local reply = {'ok', version, expires, used, user or ''}
if ARGV[5] == '1' and known ~= s .. '.' .. (r - 1) then reply[6] = redis.call('HGETALL', key) end
return reply
