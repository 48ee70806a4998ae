-- Put an order into the list of a worker or of a host's agent, if its lease lives.
-- KEYS: leases, list
-- ARGV: worker or host, lifetime of the list in seconds, order
-- Returns 1, or 0 where there is no lease.
redis.replicate_commands()
local till, time = redis.call('ZSCORE', KEYS[1], ARGV[1]), redis.call('TIME')
if not till or tonumber(till) < time[1] * 1000 + math.floor(time[2] / 1000) then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
