-- Put a request into its sub-queue, once, if the lane has room.
-- KEYS: work, ring, ringset, depth, bell, inflight, unloaded
-- ARGV: request_id, attempt, strikes, gateway_id, tenant (quoted), depth field, max depth (0: any),
--       bell cap, group, payload, lifetimes of the sub-queue and of inflight in ms, model
-- Returns {'OK', waiting}, {'FULL', waiting} or {'UNLOADED', 0}.
redis.replicate_commands()
local work, ring, ringset, depth, bell, inflight, unloaded = unpack(KEYS)
local request_id, attempt, field, max = ARGV[1], ARGV[2], ARGV[6], tonumber(ARGV[7])
local waiting = tonumber(redis.call('HGET', depth, field) or '0')
local held = redis.call('HGET', inflight, request_id)
if held and string.match(held, '^(%d+)|') == attempt then return {'OK', waiting} end
if redis.call('SISMEMBER', unloaded, ARGV[13]) == 1 then return {'UNLOADED', 0} end
if max > 0 and waiting >= max then return {'FULL', waiting} end
if redis.call('EXISTS', work) == 0 then
  redis.call('XGROUP', 'CREATE', work, ARGV[9], '0', 'MKSTREAM')
end
local entry = redis.call('XADD', work, '*', 'request_id', request_id, 'attempt', attempt,
  'strikes', ARGV[3], 'gateway_id', ARGV[4], 'payload', ARGV[10])
redis.call('PEXPIRE', work, ARGV[11])
redis.call('HSET', inflight, request_id, attempt .. '|' .. entry .. '|' .. field .. '|' .. work)
if redis.call('PTTL', inflight) == -1 then redis.call('PEXPIRE', inflight, ARGV[12]) end
redis.call('HINCRBY', depth, field, 1)
if redis.call('SADD', ringset, ARGV[5]) == 1 then redis.call('RPUSH', ring, ARGV[5]) end
if redis.call('LLEN', bell) < tonumber(ARGV[8]) then redis.call('RPUSH', bell, '1') end
return {'OK', waiting + 1}
