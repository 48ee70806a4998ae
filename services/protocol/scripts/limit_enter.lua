-- Let a request of a key in, if all limits of the key have room for it; else take nothing.
-- KEYS: buckets, running, spent (of this month)
-- ARGV: request_id, tokens, then 0 for no limit: requests per minute, tokens per minute, concurrent,
--       tokens per month; lifetimes of a running request and of the month's count in ms,
--       tokens spent this month, if Redis should not know (-1: not known here, either)
-- Returns {'OK' or what is short, ms until there is room (0: not known), requests left,
--          ms until they are whole again, tokens left, ms until they are whole again}.
redis.replicate_commands()
local buckets, running, spent = unpack(KEYS)
local request_id, cost = ARGV[1], tonumber(ARGV[2])
local per_minute = {requests = tonumber(ARGV[3]), tokens = tonumber(ARGV[4])}
local concurrent, budget = tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function left_in(name)
  local most = per_minute[name]
  if most == 0 then return 0 end
  local found = redis.call('HMGET', buckets, name, name .. '.at')
  if not found[1] then return most end
  local gone_ms = math.max(0, now - tonumber(found[2]))
  return math.min(most, tonumber(found[1]) + gone_ms * most / 60000)
end

local left = {requests = left_in('requests'), tokens = left_in('tokens')}
local take = {requests = 1, tokens = math.min(cost, per_minute.tokens)}  -- more could never pass
local short, wait_ms = 'OK', 0

if budget > 0 then
  local count = redis.call('GET', spent)
  if not count then
    if ARGV[9] == '-1' then return {'SPENT?', 0, 0, 0, 0, 0} end
    count = ARGV[9]
    redis.call('SET', spent, count, 'PX', ARGV[8])
  end
  if tonumber(count) >= budget then short = 'tokens_per_month' end
end
if concurrent > 0 and short == 'OK' then
  redis.call('ZREMRANGEBYSCORE', running, '-inf', now)
  if redis.call('ZCARD', running) >= concurrent then short = 'concurrent_requests' end
end
for _, name in ipairs({'requests', 'tokens'}) do
  local most = per_minute[name]
  if most > 0 and left[name] < take[name] then
    if short == 'OK' then short = name .. '_per_minute' end
    wait_ms = math.max(wait_ms, math.ceil((take[name] - left[name]) * 60000 / most))
  end
end
if short == 'OK' then
  for _, name in ipairs({'requests', 'tokens'}) do
    if per_minute[name] > 0 then
      left[name] = left[name] - take[name]
      redis.call('HSET', buckets, name, string.format('%.4f', left[name]), name .. '.at', now)
      redis.call('PEXPIRE', buckets, 3600000)
    end
  end
  if concurrent > 0 then
    redis.call('ZADD', running, now + ARGV[7], request_id)
    redis.call('PEXPIRE', running, ARGV[7])
  end
  if budget > 0 then redis.call('INCRBY', spent, cost) end
end
local function whole_ms(name)
  local most = per_minute[name]
  if most == 0 then return 0 end
  return math.ceil((most - left[name]) * 60000 / most)
end
return {short, wait_ms, math.max(0, math.floor(left.requests)), whole_ms('requests'),
  math.max(0, math.floor(left.tokens)), whole_ms('tokens')}
