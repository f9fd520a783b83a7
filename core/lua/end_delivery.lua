-- A try ended: delivered, stopped, or pending, which is tried once more after the pause, the last time when the patience with
-- its receiver, which began when the job ended, is over. ARGV: id, token, outcome, answer (JSON), pause in ms, patience in ms
-- → the state reached, or 'lost'
local id, token, outcome = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('HMGET', delivery_key(id), 'ended', 'outcome', 'job')
if found[1] == token then return found[2] or 'pending' end
if not is_sent_by(id, token) then return 'lost' end
local answer, pause_ms, patience_ms, now = object_of(ARGV[4]), whole(5), whole(6), now_ms()
local given_up_at = job_fields(found[3], 'finished_at')[1] + patience_ms
if outcome == 'pending' and now >= given_up_at then outcome = 'failed' end
redis.call('HSET', delivery_key(id), 'ended', token)
end_delivery(id, outcome, answer)
if outcome == 'pending' then redis.call('ZADD', OUTBOX, math.min(now + pause_ms, given_up_at), id) end
return outcome
