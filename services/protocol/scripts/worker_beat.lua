-- Register a worker, or renew its lease and its record.
-- KEYS: leases, workers, models, fenced_renewals, unloaded
-- ARGV: worker_id, lease in ms, record, 'register' or 'renew', model
-- Returns 'OK', or 'FENCED' where a renewal finds no lease: the worker's requests are others' now.
redis.replicate_commands()
local time = redis.call('TIME')
local till = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2])
if ARGV[4] == 'renew' and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  redis.call('INCR', KEYS[4])
  return 'FENCED'
end
redis.call('ZADD', KEYS[1], till, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
if ARGV[4] == 'register' then
  redis.call('HSET', KEYS[3], ARGV[5], ARGV[3])
  redis.call('SREM', KEYS[5], ARGV[5])
end
return 'OK'
