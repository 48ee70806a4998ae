-- Take a request back, wherever it is: out of the queue, or from the worker that runs it.
-- KEYS: inflight, depth
-- ARGV: prefix, request_id, group, lifetime of a control list in seconds, protocol version
-- Returns 'NONE', 'QUEUED' or 'RUNNING'.
redis.replicate_commands()
local held = redis.call('HGET', KEYS[1], ARGV[2])
if not held then return 'NONE' end
redis.call('HDEL', KEYS[1], ARGV[2])
local attempt, entry, field, work =
  string.match(held, '^(%d+)|([^|]+)|([^|]+|[^|]+)|(.+)$')
local pending = redis.pcall('XPENDING', work, ARGV[3], entry, entry, 1)
local where = 'QUEUED'
if pending and not pending.err and pending[1] then
  local worker = pending[1][2]
  where = 'RUNNING'
  redis.call('HDEL', ARGV[1] .. 'running:' .. worker, ARGV[2])
  local control = ARGV[1] .. 'control:' .. worker
  redis.call('RPUSH', control, ARGV[5] .. '|' .. ARGV[2] .. '|' .. attempt)
  redis.call('EXPIRE', control, ARGV[4])
  redis.call('XACK', work, ARGV[3], entry)
end
if redis.call('XDEL', work, entry) == 1 and where == 'QUEUED' then
  redis.call('HINCRBY', KEYS[2], field, -1)
  local model, lane, owner = string.match(work, '^[^:]+:work:([^:]+):(%a+)%.([^:]+):')
  if owner then  -- it waited in a worker's own lane
    local affine = ARGV[1] .. 'affine:' .. owner
    redis.call('HINCRBY', affine, lane, -1)
    local left = redis.call('HMGET', affine, 'interactive', 'batch')
    if tonumber(left[1] or '0') + tonumber(left[2] or '0') == 0 then
      redis.call('SREM', ARGV[1] .. 'affine_workers:' .. model, owner)
    end
  end
end
if redis.call('XLEN', work) == 0 then redis.call('DEL', work) end
return where
