-- now and the last use that counts as lately, as in the record; at, base s, base r, known version, commit id, 1 if the
-- whole record is wanted, number of fields, name, value, ..., forgotten names
-- -> {"ok", version, hash} | {"ok", version, its new end, user, sid, hash} | {"gone", version} | {"absent"} | {"behind"}
-- | what a guard says
local now, lately, base_s, base_r, commit = ARGV[1], ARGV[2], ARGV[4], tonumber(ARGV[5]), ARGV[7]
local state = redis.call('HMGET', key, 'version', 'gone', 'commit', 'last_activity', 'expires_at', 'epoch')
local version, used = state[1], state[4]
if state[2] then return {'gone', state[2]} end
if not version or epoch ~= '' and state[6] ~= epoch or state[5] <= now then return {'absent'} end

local s, r = string.match(version, '^(%d+)%.(%d+)$')
r = tonumber(r)
local changes, forgotten = {}, #ARGV + 1
if state[3] ~= commit then
  -- Only onto a copy that holds all the browser has seen, and that SQL has taken no write past: else SQL merges.
  if s ~= base_s or r < base_r then return {'behind'} end
  local refusal = refused and refused(tonumber(ARGV[3]), version)
  if refusal then return refusal end
  r = r + 1
  version = s .. '.' .. r
  changes = {'version', version, 'commit', commit, 'updated_at', now}
  forgotten = 10 + 2 * ARGV[9]
  local n = 6
  for i = 10, forgotten - 1, 2 do
    changes[n + 1], changes[n + 2], n = ARGV[i], version .. ':' .. ARGV[i + 1], n + 2
  end
end
local reply, expires = {'ok', version}, 0
if used < lately then
  local at, of = tonumber(ARGV[3]), redis.call('HMGET', key, 'life', 'user_id', 'sid')
  expires = ends_at(at, of[1])
  if expires > at then
    local n = #changes
    changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4] = 'last_activity', now, 'expires_at', iso(expires)
    reply[3], reply[4], reply[5] = expires, of[2] or '', of[3] or ''
  end
end
if #changes > 0 then hset(changes) end
for i = forgotten, #ARGV do redis.call('HDEL', key, ARGV[i]) end
if reply[3] then redis.call('PEXPIRE', key, expires - tonumber(ARGV[3])) end
if ARGV[8] == '1' and ARGV[6] ~= s .. '.' .. (r - 1) then reply[#reply + 1] = redis.call('HGETALL', key) end
return reply
