-- Whether a request that is not made yet would find room: in a free slot, or in its lane.
-- KEYS: depth, unloaded
-- ARGV: prefix, model, model (quoted), lane, tenant (quoted), max depth (0: any), group,
--       requests that come before it, then per ready worker: worker_id, slots
-- Returns {'OK' | 'FULL' | 'UNLOADED', waiting}.
local prefix, lane = ARGV[1], ARGV[4]
local waiting = tonumber(redis.call('HGET', KEYS[1], ARGV[3] .. '|' .. lane) or '0')
if redis.call('SISMEMBER', KEYS[2], ARGV[2]) == 1 then return {'UNLOADED', 0} end
local ahead = waiting + tonumber(ARGV[8])
for i = 9, #ARGV, 2 do
  local running = redis.call('HLEN', prefix .. 'running:' .. ARGV[i])
  ahead = ahead - math.max(0, tonumber(ARGV[i + 1]) - running)
end
local name = ARGV[3] .. ':' .. lane
if has_room(prefix, ARGV[7], name, ARGV[5], tonumber(ARGV[6]), ahead) then return {'OK', waiting} end
return {'FULL', waiting}
