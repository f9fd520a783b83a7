-- Ends a job for the attempt that holds it. A cancel that came first wins over a result.
-- ARGV: id, attempt, succeeded | failed | cancelled, stage → ms (JSON), then field, value … → the state reached, or 'lost'
local id, attempt, state = ARGV[1], ARGV[2], ARGV[3]
local job = job_fields(id, 'state', 'attempt', 'cancel_requested', 'finished_by', 'work_ms', 'started_at')
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
if state == 'succeeded' then
  -- The measured speed of this box, older runs fading by a tenth: audio against time spent, for estimates.
  local speed = ns .. ':speed'
  local past = redis.call('HMGET', speed, 'audio_ms', 'run_ms')
  redis.call('HSET', speed, 'audio_ms', (past[1] or 0) * 0.9 + job[5], 'run_ms', (past[2] or 0) * 0.9 + now_ms() - job[6])
end
for stage, ms in pairs(stages_ms) do
  count('stages:' .. stage)
  count('stage_ms:' .. stage, ms)
end
finish(id, state, deliveries, fields)
return state
