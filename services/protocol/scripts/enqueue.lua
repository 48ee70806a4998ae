-- Put a request into its sub-queue, once, if the lane has room; of several workers that may have its
-- images in memory, into the own lane of the first that is not loaded more than its share.
-- KEYS: depth, inflight, unloaded, leases, affine_workers, bell
-- ARGV: prefix, model, model (quoted), lane, request_id, attempt, strikes, gateway_id,
--       tenant (quoted), max depth (0: any), bell cap, group, payload, lifetimes of the sub-queue, of
--       inflight and of a wake-up in ms, load factor, cost in tokens, traceparent or '', then per worker, the best first: worker_id, most
-- Returns {'OK', waiting}, {'FULL', waiting} or {'UNLOADED', 0}.
redis.replicate_commands()
local depth, inflight, unloaded, leases, affine_workers, bell = unpack(KEYS)
local prefix, model, lane, request_id, attempt = ARGV[1], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local tenant, max, cap = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11])
local field = model .. '|' .. lane
local waiting = tonumber(redis.call('HGET', depth, field) or '0')
local held = redis.call('HGET', inflight, request_id)
if held and string.match(held, '^(%d+)|') == attempt then return {'OK', waiting} end
if redis.call('SISMEMBER', unloaded, ARGV[2]) == 1 then return {'UNLOADED', 0} end
if not has_room(prefix, ARGV[12], model .. ':' .. lane, tenant, max, waiting) then
  return {'FULL', waiting}
end

local function waiting_for(worker, of_lane)
  return tonumber(redis.call('HGET', prefix .. 'affine:' .. worker, of_lane) or '0')
end

-- Whether requests of other tenants wait in the shared lane: nobody may pass them by.
local function others_wait()
  local tenants = redis.call('ZRANGE', prefix .. 'turns:' .. model .. ':' .. lane, 0, 1)
  if #tenants == 0 or (#tenants == 1 and tenants[1] == tenant) then return false end
  local in_own_lanes = 0
  for _, worker in ipairs(redis.call('SMEMBERS', affine_workers)) do
    in_own_lanes = in_own_lanes + waiting_for(worker, lane)
  end
  return waiting > in_own_lanes
end

-- Consistent hashing with bounded loads (arXiv:1608.01350): none beyond ceil(factor * average), the
-- new request counted. Interactive requests pass those of batch that wait, so these do not count.
local function choose()
  if #ARGV < 23 or others_wait() then return nil end
  local ranked, total = {}, 1
  for i = 20, #ARGV, 2 do
    local worker = ARGV[i]
    local room = redis.call('HGET', prefix .. 'affine:' .. worker, 'room.' .. lane)
    if room and tonumber(room) >= 0 and redis.call('ZSCORE', leases, worker) then
      local load = redis.call('HLEN', prefix .. 'running:' .. worker) + waiting_for(worker, 'interactive')
      if lane == 'batch' then load = load + waiting_for(worker, 'batch') end
      ranked[#ranked + 1] = {worker, load, tonumber(ARGV[i + 1]), tonumber(room)}
      total = total + load
    end
  end
  if #ranked < 2 then return nil end
  local bound = math.ceil(tonumber(ARGV[17]) * total / #ranked)
  for _, each in ipairs(ranked) do
    if each[2] < math.min(bound, each[3]) then return each[1], each[4] end
  end
  return nil
end

local worker, room = choose()
local name = model .. ':' .. (worker and lane .. '.' .. worker or lane)
local work = prefix .. 'work:' .. name .. ':' .. tenant
if redis.call('EXISTS', work) == 0 then
  redis.call('XGROUP', 'CREATE', work, ARGV[12], '0', 'MKSTREAM')
end
local fields = {'request_id', request_id, 'attempt', attempt, 'strikes', ARGV[7],
  'gateway_id', ARGV[8], 'cost', ARGV[18], 'payload', ARGV[13]}
if ARGV[19] ~= '' then  -- beside the message: a worker that does not know it passes over it
  fields[#fields + 1] = 'traceparent'
  fields[#fields + 1] = ARGV[19]
end
local entry = redis.call('XADD', work, '*', unpack(fields))
redis.call('PEXPIRE', work, ARGV[14])
redis.call('HSET', inflight, request_id, attempt .. '|' .. entry .. '|' .. field .. '|' .. work)
if redis.call('PTTL', inflight) == -1 then redis.call('PEXPIRE', inflight, ARGV[15]) end
redis.call('HINCRBY', depth, field, 1)
local turns, given = prefix .. 'turns:' .. name, prefix .. 'given:' .. model .. ':' .. lane
if not redis.call('ZSCORE', turns, tenant) then
  -- Nobody saves up turns by staying away: who comes (back) begins where the others are.
  local had = redis.call('HMGET', given, tenant, '|')
  local tokens = math.max(tonumber(had[1] or '0'), tonumber(had[2] or '0'))
  local text = string.format('%.0f', tokens)
  redis.call('ZADD', turns, text, tenant)
  redis.call('HSET', given, tenant, text)
end
redis.call('PEXPIRE', given, ARGV[14])
if worker then
  redis.call('HINCRBY', prefix .. 'affine:' .. worker, lane, 1)
  redis.call('SADD', affine_workers, worker)
end
if worker and room > 0 then  -- it takes the request; else whoever has room may
  bell = prefix .. 'wake:' .. worker
end
if redis.call('LLEN', bell) < cap then redis.call('RPUSH', bell, '1') end
if worker and room > 0 then redis.call('PEXPIRE', bell, ARGV[16]) end
return {'OK', waiting + 1}
