-- Give a worker at most `free` requests, of them at most `batch_free` of the batch lanes: suspects by
-- themselves, else the lanes in order. Of a lane's tenants that one is served which was given the
-- fewest tokens, of its requests the oldest, whether it waits in the shared lane or in this worker's
-- own; then what waits for workers that have no room.
-- KEYS: leases, running:W, depth, bell for interactive, bell for batch, alone-owner, dead, affine:W,
--       affine_workers, wake:W
-- ARGV: prefix, model (quoted), worker_id, free, batch_free, group, dead letters kept,
--       protocol version, lane...
-- Returns {'FENCED'} or {'OK' | 'ALONE' | 'RESERVED', request_id, attempt, gateway_id, payload,
--         ms that it waited, traceparent or '', ...}.
redis.replicate_commands()
local leases, running, depth, bell, batch_bell, owner_key, dead, affine, affine_workers, wake = unpack(KEYS)
local prefix, model, worker, group = ARGV[1], ARGV[2], ARGV[3], ARGV[6]
local free, batch_free = tonumber(ARGV[4]), tonumber(ARGV[5])
if not redis.call('ZSCORE', leases, worker) then return {'FENCED'} end
local out, drops = {'OK'}, 0
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local NOW = '|'  -- field of `given`: tokens that the tenant served last had before; no tenant's name
local has_own_lanes = redis.call('EXISTS', affine_workers) == 1  -- anybody's, with something in them

local function taken() return (#out - 1) / 6 end

local function name_of(lane, owner) return owner and lane .. '.' .. owner or lane end

local function key(kind, lane, owner)
  return prefix .. kind .. ':' .. model .. ':' .. name_of(lane, owner)
end

local function waiting_for(owner, lane)
  return tonumber(redis.call('HGET', prefix .. 'affine:' .. owner, lane) or '0')
end

local function count_down(lane, owner, by)
  redis.call('HINCRBY', depth, model .. '|' .. lane, -by)
  if not owner then return end
  redis.call('HINCRBY', prefix .. 'affine:' .. owner, lane, -by)
  if waiting_for(owner, 'interactive') + waiting_for(owner, 'batch') == 0 then
    redis.call('SREM', affine_workers, owner)
  end
end

local function remove(work, entry)
  redis.call('XACK', work, group, entry)
  redis.call('XDEL', work, entry)
  if redis.call('XLEN', work) == 0 then redis.call('DEL', work) end
end

-- Read one entry of a sub-queue. Returns what it costs, in tokens; nil where the sub-queue is drained.
local function take(work, lane, owner)
  local reply = redis.pcall('XREADGROUP', 'GROUP', group, worker, 'COUNT', 1, 'STREAMS', work, '>')
  if not reply or reply.err then return nil end
  local entry = reply[1][2][1]
  local id, fields, m = entry[1], entry[2], {}
  for i = 1, #fields, 2 do m[fields[i]] = fields[i + 1] end
  if not (m.request_id and m.attempt and m.strikes and m.gateway_id and m.payload) then
    remove(work, id)
    redis.call('XADD', dead, 'MAXLEN', '~', ARGV[7], '*', 'version', ARGV[8],
      'reason', 'malformed_entry', 'work', work)
    return 0
  end
  count_down(lane, owner, 1)
  if redis.call('EXISTS', prefix .. 'gateway:' .. m.gateway_id) == 0 then  -- nobody waits for it
    remove(work, id)
    drops = drops + 1
    return 0
  end
  redis.call('HSET', running, m.request_id,
    m.attempt .. '|' .. m.strikes .. '|' .. id .. '|' .. m.gateway_id .. '|' .. work)
  local waited_ms = math.max(0, now_ms - tonumber(string.match(id, '^(%d+)-')))
  for _, v in ipairs({m.request_id, m.attempt, m.gateway_id, m.payload, waited_ms, m.traceparent or ''}) do
    out[#out + 1] = v
  end
  redis.call('HINCRBY', prefix .. 'claimed', model .. '|' .. lane, 1)
  return tonumber(m.cost) or 0
end

-- No turns means that nothing waits, whatever the count says (a sub-queue may have expired).
local function set_count_right(lane, owner)
  local counted
  if owner then
    counted = waiting_for(owner, lane)
  else
    counted = tonumber(redis.call('HGET', depth, model .. '|' .. lane) or '0')
    if counted == 0 then return end
    for _, other in ipairs(redis.call('SMEMBERS', affine_workers)) do
      counted = counted - waiting_for(other, lane)
    end
  end
  if counted ~= 0 then count_down(lane, owner, counted) end
end

-- Whose turn it is, and how many tokens it was given; nil where nobody waits. A score is no more than
-- what was last known: where the tenant was served meanwhile, here or in another lane, it is set right.
local function next_tenant(lane, owner)
  local turns = key('turns', lane, owner)
  while true do
    local first = redis.call('ZRANGE', turns, 0, 0, 'WITHSCORES')
    if not first[1] then return nil end
    local tokens = tonumber(redis.call('HGET', key('given', lane), first[1]) or '0')
    if tokens <= tonumber(first[2]) then return first[1], tokens end
    redis.call('ZADD', turns, string.format('%.0f', tokens), first[1])
  end
end

-- Serve the next tenant of a lane. Returns false where nobody waits.
local function serve(lane, owner)
  local tenant, tokens = next_tenant(lane, owner)
  if not tenant then
    set_count_right(lane, owner)
    return false
  end
  local cost = take(key('work', lane, owner) .. ':' .. tenant, lane, owner)
  if not cost then
    redis.call('ZREM', key('turns', lane, owner), tenant)
  elseif cost > 0 then
    redis.call('HSET', key('given', lane), NOW, string.format('%.0f', tokens),
      tenant, string.format('%.0f', tokens + cost))
  end
  return true
end

-- Drain a lane until so many requests are taken. Returns true where requests may be left.
local function drain(lane, most, owner)
  while taken() < most and drops < 256 do
    if not serve(lane, owner) then return false end
  end
  return redis.call('EXISTS', key('turns', lane, owner)) == 1
end

-- When a tenant's oldest request was queued; {0, 0} for a drained sub-queue.
local function queued_at(lane, owner, tenant)
  local work = key('work', lane, owner) .. ':' .. tenant
  local groups = redis.pcall('XINFO', 'GROUPS', work)
  if groups.err or not groups[1] then return {0, 0} end
  local last = '0-0'
  for i = 1, #groups[1], 2 do
    if groups[1][i] == 'last-delivered-id' then last = groups[1][i + 1] end
  end
  local entry = redis.call('XRANGE', work, '(' .. last, '+', 'COUNT', 1)[1]
  if not entry then return {0, 0} end
  local ms, number = string.match(entry[1], '^(%d+)-(%d+)$')
  return {tonumber(ms), tonumber(number)}
end

-- Whether the next request is that of the own lane: its tenant was given less, or it is the older one.
local function is_own_next(lane)
  local own_tenant, own_tokens = next_tenant(lane, worker)
  local tenant, tokens = next_tenant(lane)
  if not own_tenant or not tenant then return not tenant end
  if own_tokens ~= tokens then return own_tokens < tokens end
  local own, shared = queued_at(lane, worker, own_tenant), queued_at(lane, nil, tenant)
  return own[1] < shared[1] or (own[1] == shared[1] and own[2] <= shared[2])
end

-- Drain this worker's own lane and the shared one: none can starve the other.
local function drain_both(lane, most)
  while waiting_for(worker, lane) > 0 and taken() < most and drops < 256 do
    serve(lane, is_own_next(lane) and worker or nil)
  end
  local left = drain(lane, most)
  return left or waiting_for(worker, lane) > 0
end

-- Take what waits for workers that had no room for it when they claimed last.
local function steal(lane, most)
  if taken() >= most then return end
  for _, other in ipairs(redis.call('SMEMBERS', affine_workers)) do
    local room = redis.call('HGET', prefix .. 'affine:' .. other, 'room.' .. lane)
    if other ~= worker and tonumber(room or '0') <= 0 then drain(lane, most, other) end
  end
end

-- A bell rings while requests wait that this worker has no room for: another may have.
local function ring_while(left, bell_key)
  if left then
    if redis.call('LLEN', bell_key) == 0 then redis.call('RPUSH', bell_key, '1') end
  elseif not has_own_lanes or redis.call('EXISTS', affine_workers) == 0 then
    redis.call('DEL', bell_key)
  end
end

-- Say how much more this worker has room for.
local function set_room(interactive, batch)
  redis.call('HSET', affine, 'model', model, 'room.interactive', interactive,
    'room.batch', math.max(0, math.min(interactive, batch)))
end

if redis.call('EXISTS', key('turns', 'alone')) == 1 then
  local owner = redis.call('GET', owner_key)
  if owner and not redis.call('ZSCORE', leases, owner) then redis.call('DEL', owner_key) end
  redis.call('SET', owner_key, worker, 'NX', 'PX', 10000)
  if redis.call('GET', owner_key) == worker then
    redis.call('PEXPIRE', owner_key, 10000)
    local is_busy = redis.call('HLEN', running) > 0
    if not is_busy then drain('alone', 1) end
    if is_busy or #out > 1 then
      set_room(0, 0)
      if waiting_for(worker, 'interactive') > 0 then ring_while(true, bell) end
      if waiting_for(worker, 'batch') > 0 then ring_while(true, batch_bell) end
      out[1] = is_busy and 'RESERVED' or 'ALONE'
      return out
    end
  end
elseif redis.call('GET', owner_key) == worker then
  redis.call('DEL', owner_key)
end

local left, batch_left, before_batch = false, false, nil
if has_own_lanes then redis.call('DEL', wake) end
for i = 9, #ARGV do
  local lane, most = ARGV[i], free
  local is_batch = string.sub(lane, 1, 5) == 'batch'
  if is_batch then
    before_batch = before_batch or taken()
    most = math.min(free, before_batch + batch_free)
  end
  local is_left
  if has_own_lanes and (lane == 'interactive' or lane == 'batch') then
    is_left = drain_both(lane, most)
    steal(lane, most)
  else
    is_left = drain(lane, most)
  end
  if is_batch then batch_left = batch_left or is_left else left = left or is_left end
end
set_room(free - taken(), batch_free - (taken() - (before_batch or taken())))
ring_while(left, bell)
ring_while(batch_left, batch_bell)
return out
