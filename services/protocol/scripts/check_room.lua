-- Whether a request would enter its lane now.
-- KEYS: depth, unloaded
-- ARGV: prefix, model, model (quoted), lane, tenant (quoted), max depth (0: any), group
-- Returns {'OK' | 'FULL' | 'UNLOADED', waiting}.
local waiting = tonumber(redis.call('HGET', KEYS[1], ARGV[3] .. '|' .. ARGV[4]) or '0')
if redis.call('SISMEMBER', KEYS[2], ARGV[2]) == 1 then return {'UNLOADED', 0} end
local name = ARGV[3] .. ':' .. ARGV[4]
if has_room(ARGV[1], ARGV[7], name, ARGV[5], tonumber(ARGV[6]), waiting) then return {'OK', waiting} end
return {'FULL', waiting}
