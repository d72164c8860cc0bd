-- `epoch` is a part of the text: a Redis that was restarted does not know it.  Times are epoch milliseconds; instants in
-- a record are ISO 8601, UTC, so they sort as text.

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

-- When a session ends that is used now: after its idle time, at its deadline at the latest.
-- life: "idle:deadline" in milliseconds.
local function ends_at(at, life)
  local idle, deadline = string.match(life, '^(%d+):(%d+)$')
  return math.min(at + idle, tonumber(deadline))
end

local function split(version)
  local s, r = string.match(version, '^(%d+)%.(%d+)$')
  return tonumber(s), tonumber(r)
end

-- Whether a copy of that epoch counts.  A store that is alone has none, and takes every copy.
local function is_of(other)
  return epoch == '' or other == epoch
end
