-- Gives the best pending job to a runner: priority, then fairness between API keys, then age. If the best one does not fit
-- beside what the runner holds, it gets nothing: skipping it for smaller ones would let a long job starve.
-- ARGV: owner, slot, lease in ms, claim id (a retry of the same claim gets the same job), work_ms that still fits,
--       losses that make a job suspect (it runs alone) → {id, attempt} or {}
local owner, slot, claim = ARGV[1], ARGV[2], ns .. ':claim:' .. ARGV[4]
local suspect_after = tonumber(ARGV[6])
local before = redis.call('HMGET', claim, 'job', 'attempt')
if before[1] then
  if is_held(before[1], before[2]) then return { before[1], before[2] } end
  return {}
end
local held = redis.call('SMEMBERS', ns .. ':slot:' .. slot)
for _, id in ipairs(held) do
  if tonumber(job_fields(id, 'losses')[1] or 0) >= suspect_after then return {} end
end

for _, priority in ipairs(PRIORITIES) do
  local lane = redis.call('ZRANGE', ns .. ':lanes:' .. priority, 0, 0, 'WITHSCORES')
  if lane[1] then
    local id = redis.call('ZRANGE', ns .. ':lane:' .. priority .. ':' .. lane[1], 0, 0)[1]
    local job = job_fields(id, 'work_ms', 'losses')
    local fits = tonumber(job[1]) <= tonumber(ARGV[5]) and tonumber(job[2]) < suspect_after
    if #held > 0 and not fits then return {} end

    redis.call('HSET', ns .. ':virtual_time', priority, lane[2])
    redis.call('ZINCRBY', ns .. ':lanes:' .. priority, job[1], lane[1])
    dequeue(id)
    local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
    local now = now_ms()
    redis.call('HSET', job_key(id), 'state', 'running', 'owner', owner, 'slot', slot, 'started_at', now, 'progress', 0)
    redis.call('ZADD', ns .. ':leases', now + ARGV[3], id)
    redis.call('SADD', ns .. ':slot:' .. slot, id)
    redis.call('HINCRBY', ns .. ':totals', 'running_ms', job[1])
    redis.call('HSET', claim, 'job', id, 'attempt', attempt)
    redis.call('PEXPIRE', claim, 600000)
    changed(id)
    return { id, tostring(attempt) }
  end
end
return {}
