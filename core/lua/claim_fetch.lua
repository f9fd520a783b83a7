-- Gives the source that has waited longest for its turn to a fetcher. A fetcher that fell silent lost it; a source that has
-- ended so many of them is set aside, one that is its own again (its lease ran out while Redis was away) counts no loss.
-- ARGV: owner, lease in ms, most losses → {id, token} or {}
local owner, lease_ms, most_losses, now = ARGV[1], whole(2), whole(3), now_ms()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', FETCHING, '-inf', now, 'LIMIT', 0, 100)) do
  local job = job_fields(id, 'fetch_owner', 'fetch_losses')
  local losses = (job[2] or 0) + (job[1] and job[1] ~= owner and 1 or 0)
  if not has_record(id) then
    redis.call('ZREM', FETCHING, id)
  elseif not pcall(deliveries_of, id) then
    set_aside(id)
  elseif losses >= most_losses then
    local message = 'The dispatcher died ' .. losses .. ' times while it fetched this source. What the source holds may be what kills it:'
      .. ' send another encoding of it, or upload it.'
    finish(id, 'failed', deliveries_of(id), { 'error', cjson.encode({ code = 'worker_lost', message = message }) })
  else
    local token = redis.call('HINCRBY', job_key(id), 'fetch', 1)
    redis.call('HSET', job_key(id), 'fetch_owner', owner, 'fetch_losses', losses)
    redis.call('ZADD', FETCHING, now + lease_ms, id)
    return { id, tostring(token) }
  end
end
return {}
