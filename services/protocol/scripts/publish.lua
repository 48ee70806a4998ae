-- Append the events of one engine step to a gateway's reply stream, and in the same transaction
-- acknowledge the requests that end with it. A worker without a lease writes nothing.
-- KEYS: leases, running:W, gateway lease, events, inflight, dead, fenced_writes
-- ARGV: worker_id, group, dead letters kept, protocol version, lifetime of the stream in ms,
--       payload ('': acknowledge only), then per end: request_id, attempt, reason for a dead letter or ''
-- Returns 'OK', 'FENCED' or 'GATEWAY_GONE'.
redis.replicate_commands()
local leases, running, gateway, events, inflight, dead, fenced = unpack(KEYS)
if not redis.call('ZSCORE', leases, ARGV[1]) then
  redis.call('INCR', fenced)
  return 'FENCED'
end
local alive = redis.call('EXISTS', gateway) == 1
if alive and ARGV[6] ~= '' then
  redis.call('XADD', events, '*', 'b', ARGV[6])
  if redis.call('PTTL', events) == -1 then redis.call('PEXPIRE', events, ARGV[5]) end
end
for i = 7, #ARGV, 3 do
  local held = redis.call('HGET', running, ARGV[i])
  if held then
    local attempt, _, entry, _, work = string.match(held, '^(%d+)|(%d+)|([^|]+)|([^|]+)|(.+)$')
    if attempt == ARGV[i + 1] then
      redis.call('HDEL', running, ARGV[i])
      local sent = redis.call('HGET', inflight, ARGV[i])
      if sent and string.match(sent, '^(%d+)|') == attempt then
        redis.call('HDEL', inflight, ARGV[i])
      end
      redis.pcall('XACK', work, ARGV[2], entry)
      redis.pcall('XDEL', work, entry)
      if redis.call('XLEN', work) == 0 then redis.call('DEL', work) end
      if ARGV[i + 2] ~= '' then
        redis.call('XADD', dead, 'MAXLEN', '~', ARGV[3], '*', 'version', ARGV[4], 'request_id', ARGV[i],
          'attempt', attempt, 'reason', ARGV[i + 2], 'work', work)
      end
    end
  end
end
if alive then return 'OK' end
return 'GATEWAY_GONE'
