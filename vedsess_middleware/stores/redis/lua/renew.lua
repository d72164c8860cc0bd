-- ttl in seconds -> nothing; says which epoch is installed, for a process that cannot ask anybody else
redis.call('SET', key, epoch, 'EX', tonumber(ARGV[1]))
return 1
