-- Cancels a job: at once while it waits, at the next look of its runner while it runs. ARGV: id → its state, or false
local job = job_fields(ARGV[1], 'state', 'cancel_requested')
local state = job[1]
if state == 'queued' then
  finish(ARGV[1], 'cancelled', deliveries_of(ARGV[1]), {})
elseif state == 'running' and not job[2] then
  redis.call('HSET', job_key(ARGV[1]), 'cancel_requested', 1)
  changed(ARGV[1])
end
return redis.call('HGET', job_key(ARGV[1]), 'state')
