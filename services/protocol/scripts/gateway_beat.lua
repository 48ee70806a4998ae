-- Renew a gateway's lease and say whether anything was lost meanwhile.
-- KEYS: gateway lease, events, inflight, epoch
-- ARGV: lease in ms, lifetime of its state in ms, an epoch to set where there is none
-- Returns {1 if the lease had lived until now, the epoch}.
redis.replicate_commands()
local lived = redis.call('EXISTS', KEYS[1])
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
redis.call('SET', KEYS[4], ARGV[3], 'NX')
return {lived, redis.call('GET', KEYS[4])}
