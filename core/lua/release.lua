-- Hands a job back unharmed: its old place, no loss counted. ARGV: id, attempt, '1' if a burst failed with it → the state reached, or 'lost'
local id = ARGV[1]
if not is_held(id, ARGV[2]) then return 'lost' end
if redis.call('HGET', job_key(id), 'cancel_requested') == '1' then
  finish(id, 'cancelled', deliveries_of(id), {})
else
  count('handbacks')
  if ARGV[3] == '1' then redis.call('HINCRBY', job_key(id), 'burst_failures', 1) end
  requeue(id)
end
return redis.call('HGET', job_key(id), 'state')
