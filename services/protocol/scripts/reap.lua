-- Take everything from workers that are gone, tell the gateways, and bury what reached its limit; what
-- waits in their own lanes goes to the shared ones.
-- KEYS: leases, workers, dead
-- ARGV: prefix, group, dead letters kept, delivery limit, protocol version, worker_id ('': all whose
--       lease is over), reason, lifetime of a sub-queue in ms, count of suspects, suspect...
--       ('*' as suspect: all of them)
-- Where suspects are named, the others get no strike: they were not being admitted when it crashed.
-- Returns the number of workers that were removed.
redis.replicate_commands()
local prefix, group, limit = ARGV[1], ARGV[2], tonumber(ARGV[4])
local reason, suspects, named = ARGV[7], {}, tonumber(ARGV[9])
for i = 10, 9 + named do suspects[ARGV[i]] = true end

local function lose(worker, held, request_id, by_gateway)
  local attempt, strikes, entry, gateway, work =
    string.match(held, '^(%d+)|(%d+)|([^|]+)|([^|]+)|(.+)$')
  redis.pcall('XACK', work, group, entry)
  redis.pcall('XDEL', work, entry)
  if redis.call('XLEN', work) == 0 then redis.call('DEL', work) end
  local inflight = prefix .. 'inflight:' .. gateway
  local sent = redis.call('HGET', inflight, request_id)
  if sent and string.match(sent, '^(%d+)|') == attempt then
    redis.call('HDEL', inflight, request_id)
  end
  local suspect = suspects['*'] or suspects[request_id] or false
  local strike = suspect or (named == 0 and reason ~= 'handed_back')
  local final = strike and tonumber(strikes) + 1 >= limit
  if final then
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'version', ARGV[5], 'request_id', request_id,
      'attempt', attempt, 'reason', reason, 'worker', worker, 'work', work)
  end
  local list = by_gateway[gateway] or {}
  list[#list + 1] = {'l', request_id, tonumber(attempt), reason, strike, suspect, final}
  by_gateway[gateway] = list
end

local function reap(worker)
  local removed = redis.call('ZREM', KEYS[1], worker)
  redis.call('HDEL', KEYS[2], worker)
  local running, by_gateway = prefix .. 'running:' .. worker, {}
  local held = redis.call('HGETALL', running)
  for i = 1, #held, 2 do lose(worker, held[i + 1], held[i], by_gateway) end
  release_lanes(prefix, group, worker, ARGV[8])
  redis.call('DEL', running, prefix .. 'control:' .. worker, prefix .. 'affine:' .. worker,
    prefix .. 'wake:' .. worker)
  for gateway, list in pairs(by_gateway) do
    if redis.call('EXISTS', prefix .. 'gateway:' .. gateway) == 1 then
      redis.call('XADD', prefix .. 'events:' .. gateway, '*', 'b',
        cmsgpack.pack({tonumber(ARGV[5]), worker, list}))
    end
  end
  return removed
end

if ARGV[6] ~= '' then return reap(ARGV[6]) end
local time, count = redis.call('TIME'), 0
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  count = count + reap(worker)
end
return count
