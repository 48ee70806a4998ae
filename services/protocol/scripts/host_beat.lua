-- Renew a host's lease and record ('' as host: none), and forget hosts whose lease is over.
-- KEYS: host_leases, hosts
-- ARGV: host, lease in ms, record
-- Returns the records of all hosts that are left.
redis.replicate_commands()
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
end
for _, host in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], host)
  redis.call('HDEL', KEYS[2], host)
end
return redis.call('HVALS', KEYS[2])
