-- A function of other scripts, which stand behind it in one text.
-- Move what waits in a worker's own lanes to the end of the shared ones. Returns how many those were.
local function release_lanes(prefix, group, worker, lifetime_ms)
  local affine = prefix .. 'affine:' .. worker
  local model = redis.call('HGET', affine, 'model')
  if not model then return 0 end

  local function move(entry, old, new, field)
    local m = {}
    for i = 1, #entry[2], 2 do m[entry[2][i]] = entry[2][i + 1] end
    redis.call('XACK', old, group, entry[1])
    redis.call('XDEL', old, entry[1])
    if redis.call('EXISTS', new) == 0 then
      redis.call('XGROUP', 'CREATE', new, group, '0', 'MKSTREAM')
    end
    local id = redis.call('XADD', new, '*', unpack(entry[2]))
    redis.call('PEXPIRE', new, lifetime_ms)
    if not (m.gateway_id and m.request_id) then return end
    local inflight = prefix .. 'inflight:' .. m.gateway_id
    local sent = redis.call('HGET', inflight, m.request_id)
    if sent and string.match(sent, '^(%d+)|') == m.attempt then
      redis.call('HSET', inflight, m.request_id, m.attempt .. '|' .. id .. '|' .. field .. '|' .. new)
    end
  end

  local function move_all(old, new, field)
    local count = 0
    while true do
      local reply = redis.pcall('XREADGROUP', 'GROUP', group, 'release', 'COUNT', 64, 'STREAMS', old, '>')
      if not reply or reply.err then break end
      for _, entry in ipairs(reply[1][2]) do move(entry, old, new, field) end
      count = count + #reply[1][2]
    end
    if redis.call('XLEN', old) == 0 then redis.call('DEL', old) end
    return count
  end

  local total = 0
  for _, lane in ipairs({'interactive', 'batch'}) do
    local from, to, moved = model .. ':' .. lane .. '.' .. worker, model .. ':' .. lane, 0
    local turns = redis.call('ZRANGE', prefix .. 'turns:' .. from, 0, -1, 'WITHSCORES')
    for i = 1, #turns, 2 do
      local tenant = turns[i]
      local count = move_all(prefix .. 'work:' .. from .. ':' .. tenant,
        prefix .. 'work:' .. to .. ':' .. tenant, model .. '|' .. lane)
      if count > 0 then
        redis.call('ZADD', prefix .. 'turns:' .. to, 'NX', turns[i + 1], tenant)
      end
      moved = moved + count
    end
    redis.call('DEL', prefix .. 'turns:' .. from)
    local counted = tonumber(redis.call('HGET', affine, lane) or '0')
    if counted ~= moved then  -- a sub-queue has expired
      redis.call('HINCRBY', prefix .. 'depth', model .. '|' .. lane, moved - counted)
    end
    redis.call('HSET', affine, lane, 0)
    local bell = prefix .. 'bell:' .. model .. ':' .. lane
    if moved > 0 and redis.call('LLEN', bell) == 0 then redis.call('RPUSH', bell, '1') end
    total = total + moved
  end
  redis.call('SREM', prefix .. 'affine_workers:' .. model, worker)
  return total
end
