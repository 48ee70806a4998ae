-- A function of other scripts, which stand behind it in one text.
-- Whether a lane in which `waiting` requests wait has room for one more of a tenant. Where it is full,
-- only for one that has less than its share of it, so that nobody's backlog shuts others out; at most
-- twice as many as may can wait then.
local function has_room(prefix, group, name, tenant, most, waiting)
  if most <= 0 or waiting < most then return true end
  local turns, work = prefix .. 'turns:' .. name, prefix .. 'work:' .. name .. ':' .. tenant
  local tenants = redis.call('ZCARD', turns)
  if not redis.call('ZSCORE', turns, tenant) then tenants = tenants + 1 end
  if tenants < 2 then return false end
  local pending = redis.pcall('XPENDING', work, group)
  local running = pending.err and 0 or pending[1]
  return redis.call('XLEN', work) - running < most / tenants
end
