-- A request of a key is over: count what it really took instead of what was expected.
-- KEYS: buckets, running, spent (of the month in which it came)
-- ARGV: request_id, tokens that were expected, tokens that it took, tokens per minute (0: no limit)
redis.replicate_commands()
local buckets, running, spent = unpack(KEYS)
local expected, took, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('ZREM', running, ARGV[1])
local left = redis.call('HGET', buckets, 'tokens')
if most > 0 and left then
  left = math.min(most, left + math.min(expected, most) - took)
  redis.call('HSET', buckets, 'tokens', string.format('%.4f', left))
end
if redis.call('EXISTS', spent) == 1 then redis.call('INCRBY', spent, took - expected) end
return 1
