-- The source could not be had: once more after a pause, until it failed too often.
-- ARGV: id, token, pause in ms, most failures, error (JSON) → the state reached, or 'lost'
local id, token = ARGV[1], ARGV[2]
local ended = job_fields(id, 'fetch_ended', 'state')
if ended[1] == token then return ended[2] end
if not is_fetched_by(id, token) then return 'lost' end
local deliveries, pause_ms, most_failures = deliveries_of(id), whole(3), whole(4)
check_error(ARGV[5])
redis.call('HSET', job_key(id), 'fetch_ended', token)
count('fetches:failed')
if redis.call('HINCRBY', job_key(id), 'fetch_failures', 1) >= most_failures then
  finish(id, 'failed', deliveries, { 'error', ARGV[5] })
else
  redis.call('HDEL', job_key(id), 'fetch_owner')
  redis.call('ZADD', FETCHING, now_ms() + pause_ms, id)
end
return redis.call('HGET', job_key(id), 'state')
