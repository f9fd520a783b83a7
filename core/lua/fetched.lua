-- The source is in the file store: the job becomes pending, at the place that it got when it was submitted.
-- ARGV: id, token, what the fetch found (JSON), work_ms → the state reached, or 'lost'
local id, token = ARGV[1], ARGV[2]
local ended = job_fields(id, 'fetch_ended', 'state')
if ended[1] == token then return ended[2] end
if not is_fetched_by(id, token) then return 'lost' end
local work_ms = whole(4)
object_of(ARGV[3])
drop_fetch(id)
redis.call('HSET', job_key(id), 'fetch_ended', token, 'fetched', ARGV[3], 'work_ms', work_ms)
enqueue(id)
count('fetches:stored')
changed(id)
return 'queued'
