-- at, refresh, base, known version, commit id, 1 if the whole record is wanted, number of fields, name, value, ...,
-- forgotten names -> {"ok", its end if the use was recorded else 0, version, user, hash} | {"gone", version} | {"absent"} | {"behind"}
local at, refresh, base, known, commit = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local names = {'version', 'gone', 'commit', 'life', 'user_id', 'last_activity', 'expires_at', 'epoch'}
local version, gone, last_commit, life, user, used, ends, of_epoch = unpack(redis.call('HMGET', key, unpack(names)))
if gone then return {'gone', gone} end
if not version or not is_of(of_epoch) or ends <= iso(at) then return {'absent'} end

local s, r = split(version)
if last_commit ~= commit then
  -- Only onto a copy that holds all the browser has seen, and that SQL has taken no write past: else SQL merges.
  local base_s, base_r = split(base)
  if s ~= base_s or r < base_r then return {'behind'} end
  r = r + 1
  version = s .. '.' .. r
  local changes = {'version', version, 'commit', commit, 'updated_at', iso(at)}
  local last = 7 + 2 * ARGV[7]
  for i = 8, last, 2 do
    changes[#changes + 1] = ARGV[i]
    changes[#changes + 1] = version .. ':' .. ARGV[i + 1]
  end
  hset(changes)
  for i = last + 1, #ARGV do redis.call('HDEL', key, ARGV[i]) end
end
local expires = touch(at, life, ends)
local due = expires and used < iso(at - refresh)

local reply = {'ok', due and expires or 0, version, user or ''}
if ARGV[6] == '1' and known ~= s .. '.' .. (r - 1) then reply[5] = redis.call('HGETALL', key) end
return reply
