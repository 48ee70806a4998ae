-- Let nothing more into the own lanes of a worker that claims nothing now, and give others what waits
-- there. Its next claim opens them again.
-- KEYS: leases, affine:W
-- ARGV: prefix, group, worker_id, lifetime of a sub-queue in ms
-- Returns the number of requests that were moved.
redis.replicate_commands()
if not redis.call('ZSCORE', KEYS[1], ARGV[3]) then return 0 end
redis.call('HSET', KEYS[2], 'room.interactive', -1, 'room.batch', -1)
return release_lanes(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
