-- A stage broke through no fault of the caller's: once more, until it broke too often. ARGV: id, attempt, most failures, error (JSON),
-- then field, value … of what there is all the same, for a job that fails for good
-- → the state reached, or 'lost'
local id, attempt = ARGV[1], ARGV[2]
local finished_by = job_fields(id, 'finished_by', 'state')
if finished_by[1] == attempt then return finished_by[2] end
if not is_held(id, attempt) then return 'lost' end
local deliveries, most_failures = deliveries_of(id), whole(3)
check_error(ARGV[4])
local failures = redis.call('HINCRBY', job_key(id), 'failures', 1)
if redis.call('HGET', job_key(id), 'cancel_requested') == '1' then
  finish(id, 'cancelled', deliveries, { 'finished_by', attempt })
elseif failures >= most_failures then
  local fields = { 'finished_by', attempt, 'error', ARGV[4] }
  for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
  finish(id, 'failed', deliveries, fields)
else
  count('retries')
  requeue(id)
end
return redis.call('HGET', job_key(id), 'state')
