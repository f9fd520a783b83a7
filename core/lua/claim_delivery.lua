-- Gives the delivery that has waited longest for its turn to whoever sends it, passing over those of busy hosts. Of very many
-- due ones it looks through a part that begins anywhere and goes round, so that those of one host cannot stand before all others
-- for ever.
-- ARGV: owner, lease in ms, most losses, where the look begins (0 to 1), then busy hosts → {delivery id, token} or {}
local LOOK = 1000 -- 12 ms on two busy cores, once a sweep
local owner, lease_ms, most_losses, look_from, now = ARGV[1], whole(2), whole(3), number(4), now_ms()
local is_busy = {}
for i = 5, #ARGV do is_busy[ARGV[i]] = true end
local function due(from, most) return redis.call('ZRANGEBYSCORE', OUTBOX, '-inf', now, 'LIMIT', from, most) end
local count_due = redis.call('ZCOUNT', OUTBOX, '-inf', now)
local from = count_due > LOOK and math.floor(count_due * look_from) or 0
local ids = due(from, LOOK)
for _, id in ipairs(due(0, math.min(from, LOOK - #ids))) do ids[#ids + 1] = id end
for _, id in ipairs(ids) do
  local key = delivery_key(id)
  local found = redis.call('HMGET', key, 'job', 'what', 'owner', 'losses')
  local is_readable, owed = pcall(object_of, found[2])
  if not found[1] or not has_record(found[1]) then
    settle(id)
    redis.call('DEL', key)
  elseif not is_readable then
    end_delivery(id, 'failed', { error = 'its record in Redis is broken' })
  elseif not is_busy[owed.host] then
    local losses = (found[4] or 0) + (found[3] and found[3] ~= owner and 1 or 0)
    if losses < most_losses then
      local token = redis.call('HINCRBY', key, 'take', 1)
      redis.call('HSET', key, 'owner', owner, 'losses', losses, 'taken_at', now)
      redis.call('ZADD', OUTBOX, now + lease_ms, id)
      return { id, tostring(token) }
    end
    end_delivery(id, 'failed', { error = 'the dispatcher died ' .. losses .. ' times while it sent this' })
  end
end
return {}
