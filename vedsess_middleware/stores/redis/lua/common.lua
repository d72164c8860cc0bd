-- Shared by every script.  `epoch` is a part of the text: a Redis that was restarted does not know it.  Times are epoch milliseconds; instants in a record are ISO 8601, UTC, so they sort as text.

local key = KEYS[1]

-- Before 7.0 a Redis gets scripts with the data, as a replica or from a dump: there the process has to be the right one.
if processes ~= '' and not redis.REDIS_VERSION_NUM then
  local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x%x%x%x%x%x%x%x)')
  if not string.find(processes, run_id, 1, true) then return redis.error_reply('NOSCRIPT of another process') end
end

-- Days to a civil date, after the proleptic Gregorian calendar.
local function iso(ms)
  local floor = math.floor
  local days = floor(ms / 86400000)
  local rest = ms - days * 86400000
  local z = days + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03d+00:00', year, month, doy - floor((153 * mp + 2) / 5) + 1,
    floor(rest / 3600000), floor(rest / 60000) % 60, floor(rest / 1000) % 60, rest % 1000)
end

-- HSET of any number of fields: unpack alone gives up at a few thousand.
local function hset(list)
  for i = 1, #list, 4000 do
    redis.call('HSET', key, unpack(list, i, math.min(i + 3999, #list)))
  end
end

-- Records the use of a live session and extends its time to live, up to its deadline.
-- life: "idle:deadline" in milliseconds; ends: its end so far.  Returns the new end, or false where it is over.
local function touch(at, life, ends)
  if ends <= iso(at) then return false end
  local idle, deadline = string.match(life, '^(%d+):(%d+)$')
  local expires = math.min(at + idle, tonumber(deadline))
  if expires <= at then return false end
  redis.call('HSET', key, 'last_activity', iso(at), 'expires_at', iso(expires))
  redis.call('PEXPIRE', key, expires - at)
  return expires
end

local function split(version)
  local s, r = string.match(version, '^(%d+)%.(%d+)$')
  return tonumber(s), tonumber(r)
end

-- Whether a copy of that epoch counts.  A store that is alone has none, and takes every copy.
local function is_of(other)
  return epoch == '' or other == epoch
end

-- Whether every write that `other` knows of is in `version` too.
local function covers(version, other)
  local s, r = split(version)
  local other_s, other_r = split(other)
  return s and s >= other_s and r >= other_r
end

-- The later of two texts in the order of their bytes: `<` would ask the server's locale.
local function later(a, b)
  if a == b then return a end
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y and a or b end
  end
  return #a > #b and a or b
end

-- Leaves a tombstone for as long as an old copy could live: version, when, until, a word of the attempt.
local function bury(version, ended, last, left, word)
  redis.call('DEL', key)
  redis.call('HSET', key, 'gone', table.concat({version, ended, last, word}, ' '))
  redis.call('PEXPIRE', key, left)
end

