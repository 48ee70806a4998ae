-- Correct what tenants were given by what their requests really were.
-- KEYS: given, turns of the shared lane
-- ARGV: per tenant: its name (quoted), tokens more or less
redis.replicate_commands()
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 1, #ARGV, 2 do
  local tokens = redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
  redis.call('ZADD', KEYS[2], 'XX', tokens, ARGV[i])
end
return #ARGV / 2
