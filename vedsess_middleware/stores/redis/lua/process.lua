-- Before 7.0 a Redis gets scripts with the data, as a replica or from a dump: there the process has to be the right one.
if not redis.REDIS_VERSION_NUM then
  local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x%x%x%x%x%x%x%x)')
  if not string.find(processes, run_id, 1, true) then return redis.error_reply('NOSCRIPT of another process') end
end
