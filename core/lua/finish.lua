-- Ends a job for the attempt that holds it. A cancel that came first wins over a result.
-- ARGV: id, attempt, succeeded | failed | cancelled, stage → ms (JSON), then field, value … → the state reached, or 'lost'
local id, attempt, state = ARGV[1], ARGV[2], ARGV[3]
local job = job_fields(id, 'state', 'attempt', 'cancel_requested', 'finished_by', 'runner', 'slot', 'work_ms')
if job[4] == attempt then return job[1] end
if job[1] ~= 'running' or job[2] ~= attempt then return 'lost' end
local deliveries, stages_ms = deliveries_of(id), object_of(ARGV[4])
for _, ms in pairs(stages_ms) do assert(is_whole(ms), 'the time of a stage is no whole number') end
if job[3] == '1' then
  finish(id, 'cancelled', deliveries, { 'finished_by', attempt })
  return 'cancelled'
end
local fields = { 'finished_by', attempt }
for i = 5, #ARGV, 2 do
  if ARGV[i] == 'error' then check_error(ARGV[i + 1]) end
  fields[#fields + 1], fields[#fields + 2] = ARGV[i], assert(ARGV[i + 1], 'a field without a value')
end
if state == 'succeeded' and job[5] ~= 'modal' then
  -- The measured speed of a worker, older runs fading by a tenth: audio against the time in which its slot held jobs, so that
  -- jobs side by side count that time once.
  local speed, busy_since, now = ns .. ':speed', ns .. ':busy_since', now_ms()
  local past = redis.call('HMGET', speed, 'audio_ms', 'run_ms')
  local run_ms = now - (redis.call('HGET', busy_since, job[6]) or now)
  redis.call('HSET', busy_since, job[6], now)
  redis.call('HSET', speed, 'audio_ms', (past[1] or 0) * 0.9 + job[7], 'run_ms', (past[2] or 0) * 0.9 + run_ms)
end
for stage, ms in pairs(stages_ms) do
  count('stages:' .. stage)
  count('stage_ms:' .. stage, ms)
end
finish(id, state, deliveries, fields)
return state
