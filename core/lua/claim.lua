-- Gives the best pending job to a runner: priority, then fairness between API keys, then age. If the best one does not fit
-- beside what the runner holds, it gets nothing: skipping it for smaller ones would let a long job starve.
-- ARGV: owner, slot, lease in ms, claim id (a retry of the same claim gets the same job), work_ms that still fits,
--       losses that make a job suspect (it runs alone), bounds of the histogram of waits in s (JSON) → {id, attempt} or {}

-- The oldest job of the lane whose turn it is, and the lane's virtual time. Drops places that lead to no record, or to one that
-- nobody can read.
local function next_of(priority)
  local lanes, pending, has_dropped = ns .. ':lanes:' .. priority, ns .. ':pending:' .. priority, false
  local id, lane
  repeat
    lane = redis.call('ZRANGE', lanes, 0, 0, 'WITHSCORES')
    if not lane[1] then break end
    local places = ns .. ':lane:' .. priority .. ':' .. lane[1]
    id = redis.call('ZRANGE', places, 0, 0)[1]
    if id and not has_record(id) then
      redis.call('ZREM', pending, id)
      redis.call('ZREM', places, id)
      id, has_dropped = nil, true
    elseif id and not pcall(deliveries_of, id) then
      set_aside(id)
      id = nil
    end
    if not id and redis.call('EXISTS', places) == 0 then leave(priority, lane[1]) end
  until id
  if has_dropped then recount('pending_ms:' .. priority, { pending }) end
  return id, lane[2]
end

local owner, slot, claim = ARGV[1], ARGV[2], ns .. ':claim:' .. ARGV[4]
local lease_ms, fits_ms, suspect_after = whole(3), whole(5), whole(6)
local bounds = numbers_of(7)
local before = redis.call('HMGET', claim, 'job', 'attempt')
if before[1] then
  if is_held(before[1], before[2]) then return { before[1], before[2] } end
  return {}
end
local held = {}
for _, id in ipairs(redis.call('SMEMBERS', ns .. ':slot:' .. slot)) do
  local losses = job_fields(id, 'losses')[1]
  if losses and tonumber(losses) >= suspect_after then return {} end
  if losses then held[#held + 1] = id else redis.call('SREM', ns .. ':slot:' .. slot, id) end
end

for _, priority in ipairs(PRIORITIES) do
  local id, virtual_time = next_of(priority)
  if id then
    local job = job_fields(id, 'work_ms', 'losses')
    local fits = tonumber(job[1]) <= fits_ms and tonumber(job[2]) < suspect_after
    if #held > 0 and not fits then return {} end

    redis.call('HSET', ns .. ':virtual_time', priority, virtual_time)
    local attempt = take(id, { owner = owner, slot = slot, lease_ms = lease_ms, runner = 'local' }, bounds)
    redis.call('ZREMRANGEBYSCORE', ns .. ':left:' .. priority, '-inf', virtual_time)
    redis.call('HSET', claim, 'job', id, 'attempt', attempt)
    redis.call('PEXPIRE', claim, 600000)
    return { id, attempt }
  end
end
return {}
