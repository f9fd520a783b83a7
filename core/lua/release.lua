-- Hands a job back unharmed: its old place, no loss counted. ARGV: id, attempt → the state reached, or 'lost'
local id = ARGV[1]
if not is_held(id, ARGV[2]) then return 'lost' end
if redis.call('HGET', job_key(id), 'cancel_requested') == '1' then
  finish(id, 'cancelled', deliveries_of(id), {})
else
  count('handbacks')
  requeue(id)
end
return redis.call('HGET', job_key(id), 'state')
