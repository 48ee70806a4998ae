-- Mark a model as unloaded, and end what waits in its queue, each request with one failure event.
-- KEYS: unloaded, models, depth, alone-owner, affine_workers, both bells
-- ARGV: prefix, model, model (quoted), group, protocol version, error code, message, lane...
-- What workers hold is theirs to end. Returns the number of requests that were ended.
redis.replicate_commands()
local unloaded, models, depth = KEYS[1], KEYS[2], KEYS[3]
local prefix, model, group = ARGV[1], ARGV[3], ARGV[4]
redis.call('SADD', unloaded, ARGV[2])
redis.call('HDEL', models, ARGV[2])
local by_gateway, count = {}, 0

local function fail(work, entry)
  local m = {}
  for i = 1, #entry[2], 2 do m[entry[2][i]] = entry[2][i + 1] end
  redis.call('XACK', work, group, entry[1])
  redis.call('XDEL', work, entry[1])
  if not (m.request_id and m.attempt and m.gateway_id) then return end
  local inflight = prefix .. 'inflight:' .. m.gateway_id
  local sent = redis.call('HGET', inflight, m.request_id)
  if sent and string.match(sent, '^(%d+)|') == m.attempt then
    redis.call('HDEL', inflight, m.request_id)
  end
  local list = by_gateway[m.gateway_id] or {}
  list[#list + 1] = {'e', m.request_id, tonumber(m.attempt), ARGV[6], ARGV[7]}
  by_gateway[m.gateway_id] = list
  count = count + 1
end

local function empty(name)
  local lane = model .. ':' .. name
  for _, tenant in ipairs(redis.call('ZRANGE', prefix .. 'turns:' .. lane, 0, -1)) do
    local work = prefix .. 'work:' .. lane .. ':' .. tenant
    while true do
      local reply = redis.pcall('XREADGROUP', 'GROUP', group, 'unload', 'COUNT', 64,
        'STREAMS', work, '>')
      if not reply or reply.err then break end
      for _, entry in ipairs(reply[1][2]) do fail(work, entry) end
    end
    if redis.call('XLEN', work) == 0 then redis.call('DEL', work) end
  end
  redis.call('DEL', prefix .. 'turns:' .. lane, prefix .. 'given:' .. lane)
end

for i = 8, #ARGV do
  empty(ARGV[i])
  redis.call('HDEL', depth, model .. '|' .. ARGV[i])
end
for _, worker in ipairs(redis.call('SMEMBERS', KEYS[5])) do
  for _, lane in ipairs({'interactive', 'batch'}) do
    empty(lane .. '.' .. worker)
    redis.call('HSET', prefix .. 'affine:' .. worker, lane, 0)
  end
end
redis.call('DEL', KEYS[4], KEYS[5], KEYS[6], KEYS[7])
for gateway, list in pairs(by_gateway) do
  if redis.call('EXISTS', prefix .. 'gateway:' .. gateway) == 1 then
    redis.call('XADD', prefix .. 'events:' .. gateway, '*', 'b',
      cmsgpack.pack({tonumber(ARGV[5]), 'unload', list}))
  end
end
return count
