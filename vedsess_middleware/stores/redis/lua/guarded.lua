-- An update that is guarded brings along, behind all else: the number of the lock that is held, or ''; names with the
-- stamps that are expected of them, ...; and how many all these are.  What is refused is not due.
local refused
if command == 'guarded' then
  local guards, owing, due = {}, KEYS[2], {}
  for i = tonumber(table.remove(ARGV)), 1, -1 do guards[i] = table.remove(ARGV) end
  if owing then
    for i = 1, 3 do due[i] = table.remove(ARGV, 1) end
    KEYS[2] = nil
  end
  -- at, version -> {"unlocked", version} | {"conflict", version, names} | nothing where it may be written
  refused = function(at, version)
    if guards[1] ~= '' then
      local number, ends = string.match(redis.call('HGET', key, 'lock') or '', '^(%d+) (%d+) ')
      if number ~= guards[1] or tonumber(ends) <= at then return {'unlocked', version} end
    end
    local conflict = {'conflict', version}
    for i = 2, #guards, 2 do
      local value = redis.call('HGET', key, guards[i])
      local stamp = value and (string.match(value, '^(%d+%.%d+):') or 'none') or '0.0'
      if stamp ~= guards[i + 1] then conflict[#conflict + 1] = guards[i] end
    end
    if #conflict > 2 then return conflict end
    if owing then
      redis.call('ZADD', owing, due[2], due[1])
      redis.call('EXPIRE', owing, due[3])
    end
  end
  command = 'update'
end
