-- Gives a source to a fetcher: of the key with the fewest under way, and of that the one that has waited longest for its turn;
-- none of a key that has its share. Of very many due ones it looks through a part that begins anywhere and goes round, so that
-- those of one key cannot stand before all others for ever. A fetcher that fell silent lost its source; a source that has
-- ended so many of them is set aside, one that is its own again (its lease ran out while Redis was away) counts no loss.
-- ARGV: owner, lease in ms, most losses, where the look begins (0 to 1), most of a key, 0 for no limit, then keys each with how
-- many it has under way → {id, token} or {}
local LOOK = 1000 -- 12 ms on two busy cores, once a sweep
local owner, lease_ms, most_losses, begins_at, most_of_key, now = ARGV[1], whole(2), whole(3), number(4), whole(5), now_ms()
local under_way = {}
for i = 6, #ARGV, 2 do under_way[ARGV[i]] = whole(i + 1) end
local function due(from, most) return redis.call('ZRANGEBYSCORE', FETCHING, '-inf', now, 'LIMIT', from, most) end

local function give_up(id, losses)
  if not pcall(deliveries_of, id) then return set_aside(id) end
  local message = 'The dispatcher died ' .. losses .. ' times while it fetched this source. What the source holds may be what kills it:'
    .. ' send another encoding of it, or upload it.'
  finish(id, 'failed', deliveries_of(id), { 'error', cjson.encode({ code = 'worker_lost', message = message }) })
end

-- The source to be taken and the losses it has by then; drops what leads to no record, sets aside what nobody can read or
-- has ended too many.
local function best_of(ids)
  local best, fewest, losses_of_best
  for _, id in ipairs(ids) do
    local job = job_fields(id, 'key_id', 'fetch_owner', 'fetch_losses')
    local of_key = under_way[job[1]] or 0
    local losses = (job[3] or 0) + (job[2] and job[2] ~= owner and 1 or 0)
    if not has_record(id) then
      redis.call('ZREM', FETCHING, id)
    elseif losses >= most_losses then
      give_up(id, losses)
    elseif (most_of_key == 0 or of_key < most_of_key) and (not fewest or of_key < fewest) then
      if pcall(deliveries_of, id) then best, fewest, losses_of_best = id, of_key, losses else set_aside(id) end
      if fewest == 0 then break end
    end
  end
  return best, losses_of_best
end

local count_due = redis.call('ZCOUNT', FETCHING, '-inf', now)
local from = count_due > LOOK and math.floor(count_due * begins_at) or 0
local ids = due(from, LOOK)
for _, id in ipairs(due(0, math.min(from, LOOK - #ids))) do ids[#ids + 1] = id end
local id, losses = best_of(ids)
if not id then return {} end
local token = redis.call('HINCRBY', job_key(id), 'fetch', 1)
redis.call('HSET', job_key(id), 'fetch_owner', owner, 'fetch_losses', losses)
redis.call('ZADD', FETCHING, now + lease_ms, id)
return { id, tostring(token) }
