-- Hands a fetch back unharmed, to be taken again after a pause. ARGV: id, token, pause in ms → 'queued' or 'lost'
local id, pause_ms = ARGV[1], whole(3)
if not is_fetched_by(id, ARGV[2]) then return 'lost' end
redis.call('HDEL', job_key(id), 'fetch_owner')
redis.call('ZADD', FETCHING, now_ms() + pause_ms, id)
return 'queued'
