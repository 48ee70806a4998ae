-- Return what a worker holds, for one that missed the reply to a claim.
-- KEYS: running:W
-- Returns what `claim.lua` returns, without how long they waited (-1).
local out = {'OK'}
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
  local attempt, _, entry, gateway, work =
    string.match(held[i + 1], '^(%d+)|(%d+)|([^|]+)|([^|]+)|(.+)$')
  local found = redis.pcall('XRANGE', work, entry, entry)
  if found and not found.err and found[1] then
    local fields, payload, traceparent = found[1][2], nil, ''
    for j = 1, #fields, 2 do
      if fields[j] == 'payload' then payload = fields[j + 1] end
      if fields[j] == 'traceparent' then traceparent = fields[j + 1] end
    end
    for _, v in ipairs({held[i], attempt, gateway, payload, -1, traceparent}) do out[#out + 1] = v end
    if string.match(work, '^[^:]+:work:[^:]+:alone:') then out[1] = 'ALONE' end
  end
end
return out
