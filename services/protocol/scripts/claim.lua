-- Give a worker at most `free` requests, of them at most `batch_free` of the batch lanes: suspects by
-- themselves, else the lanes in order, each lane's tenants in turn.
-- KEYS: leases, running:W, depth, bell for interactive, bell for batch, alone-owner, dead
-- ARGV: prefix, model (quoted), worker_id, free, batch_free, group, dead letters kept,
--       protocol version, lane...
-- Returns {'FENCED'} or {'OK' | 'ALONE' | 'RESERVED', request_id, attempt, gateway_id, payload, ...}.
redis.replicate_commands()
local leases, running, depth, bell, batch_bell, owner_key, dead = unpack(KEYS)
local prefix, model, worker, group = ARGV[1], ARGV[2], ARGV[3], ARGV[6]
local free, batch_free = tonumber(ARGV[4]), tonumber(ARGV[5])
if not redis.call('ZSCORE', leases, worker) then return {'FENCED'} end
local out, drops = {'OK'}, 0

local function remove(work, entry)
  redis.call('XACK', work, group, entry)
  redis.call('XDEL', work, entry)
  if redis.call('XLEN', work) == 0 then redis.call('DEL', work) end
end

-- Read one entry of a sub-queue. Returns false where it is drained.
local function take(work, field)
  local reply = redis.pcall('XREADGROUP', 'GROUP', group, worker, 'COUNT', 1, 'STREAMS', work, '>')
  if not reply or reply.err then return false end
  local entry = reply[1][2][1]
  local id, fields, m = entry[1], entry[2], {}
  for i = 1, #fields, 2 do m[fields[i]] = fields[i + 1] end
  if not (m.request_id and m.attempt and m.strikes and m.gateway_id and m.payload) then
    remove(work, id)
    redis.call('XADD', dead, 'MAXLEN', '~', ARGV[7], '*', 'version', ARGV[8],
      'reason', 'malformed_entry', 'work', work)
    return true
  end
  redis.call('HINCRBY', depth, field, -1)
  if redis.call('EXISTS', prefix .. 'gateway:' .. m.gateway_id) == 0 then  -- nobody waits for it
    remove(work, id)
    drops = drops + 1
    return true
  end
  redis.call('HSET', running, m.request_id,
    m.attempt .. '|' .. m.strikes .. '|' .. id .. '|' .. m.gateway_id .. '|' .. work)
  for _, v in ipairs({m.request_id, m.attempt, m.gateway_id, m.payload}) do out[#out + 1] = v end
  return true
end

local function taken() return (#out - 1) / 4 end

-- Drain a lane's ring in turns until so many requests are taken. Returns true where requests may be left.
-- An empty ring means that nothing waits, whatever the count says (a sub-queue may have expired).
local function drain(lane, most)
  local ring = prefix .. 'ring:' .. model .. ':' .. lane
  local field = model .. '|' .. lane
  while taken() < most and drops < 256 do
    local tenant = redis.call('LPOP', ring)
    if not tenant then
      if (redis.call('HGET', depth, field) or '0') ~= '0' then redis.call('HSET', depth, field, 0) end
      return false
    end
    if take(prefix .. 'work:' .. model .. ':' .. lane .. ':' .. tenant, field) then
      redis.call('RPUSH', ring, tenant)
    else
      redis.call('SREM', prefix .. 'ringset:' .. model .. ':' .. lane, tenant)
    end
  end
  return redis.call('LLEN', ring) > 0
end

-- A bell rings while requests wait that this worker has no room for: another may have.
local function ring_while(left, bell_key)
  if not left then
    redis.call('DEL', bell_key)
  elseif redis.call('LLEN', bell_key) == 0 then
    redis.call('RPUSH', bell_key, '1')
  end
end

if redis.call('LLEN', prefix .. 'ring:' .. model .. ':alone') > 0 then
  local owner = redis.call('GET', owner_key)
  if owner and not redis.call('ZSCORE', leases, owner) then redis.call('DEL', owner_key) end
  redis.call('SET', owner_key, worker, 'NX', 'PX', 10000)
  if redis.call('GET', owner_key) == worker then
    redis.call('PEXPIRE', owner_key, 10000)
    if redis.call('HLEN', running) > 0 then return {'RESERVED'} end
    drain('alone', 1)
    if #out > 1 then out[1] = 'ALONE'; return out end
  end
elseif redis.call('GET', owner_key) == worker then
  redis.call('DEL', owner_key)
end

local left, batch_left, before_batch = false, false, nil
for i = 9, #ARGV do
  if string.sub(ARGV[i], 1, 5) ~= 'batch' then
    left = drain(ARGV[i], free) or left
  else
    before_batch = before_batch or taken()
    batch_left = drain(ARGV[i], math.min(free, before_batch + batch_free)) or batch_left
  end
end
ring_while(left, bell)
ring_while(batch_left, batch_bell)
return out
