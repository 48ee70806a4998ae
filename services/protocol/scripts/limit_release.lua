-- A request of a key was perhaps let in, and nobody heard of it: give back what it took, once.
-- Only a key with a limit of requests at once has a record of who is in; for others nothing is done.
-- KEYS: buckets, running, spent (of the month in which it came)
-- ARGV: request_id, tokens that were expected, requests per minute, tokens per minute (0: no limit)
-- Returns 1 where it was in.
redis.replicate_commands()
local buckets, running, spent = unpack(KEYS)
local expected = tonumber(ARGV[2])
local per_minute = {requests = tonumber(ARGV[3]), tokens = tonumber(ARGV[4])}
if redis.call('ZREM', running, ARGV[1]) == 0 then return 0 end
local took = {requests = 1, tokens = math.min(expected, per_minute.tokens)}
for _, name in ipairs({'requests', 'tokens'}) do
  local left = redis.call('HGET', buckets, name)
  if per_minute[name] > 0 and left then
    left = math.min(per_minute[name], left + took[name])
    redis.call('HSET', buckets, name, string.format('%.4f', left))
  end
end
if redis.call('EXISTS', spent) == 1 then redis.call('DECRBY', spent, expected) end
return 1
