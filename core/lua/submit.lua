-- ARGV: id, fixed (JSON), key_id, priority, work_ms, idempotency key or '', fingerprint, its lifetime in ms, most jobs queued,
--       most jobs of the key that have not ended, 0 for no limit, '1' if it has a source, which is fetched before it is pending
-- → {'created' | 'existing', id}, {'conflict', id of the earlier job}, {'full', jobs queued}, {'too many', the key's jobs}
local id, idempotency = ARGV[1], ARGV[6]
local work_ms, lifetime_ms, most_queued, most_of_key = whole(5), whole(8), whole(9), whole(10)
assert(object_of(ARGV[2]).deliveries, 'the record could not be read again')
if redis.call('EXISTS', job_key(id)) == 1 then return { 'existing', id } end
local remembered = idempotency_key(ARGV[3], idempotency)
if idempotency ~= '' then
  local earlier = redis.call('HMGET', remembered, 'job', 'fingerprint')
  if earlier[1] and redis.call('EXISTS', job_key(earlier[1])) == 1 then
    return { earlier[2] == ARGV[7] and 'existing' or 'conflict', earlier[1] }
  end
end
if most_of_key > 0 then
  local of_key = unfinished(ARGV[3], most_of_key)
  if of_key >= most_of_key then return { 'too many', of_key } end
end
local queued = redis.call('ZCARD', FETCHING)
for _, priority in ipairs(PRIORITIES) do queued = queued + redis.call('ZCARD', ns .. ':pending:' .. priority) end
if queued >= most_queued then return { 'full', queued } end

local now = now_ms()
redis.call('HSET', job_key(id), 'fixed', ARGV[2], 'key_id', ARGV[3], 'priority', ARGV[4], 'work_ms', work_ms,
  'state', 'queued', 'attempt', 0, 'losses', 0, 'progress', 0, 'created_at', now, 'seq', redis.call('INCR', ns .. ':seq'))
redis.call('ZADD', ns .. ':jobs', now, id)
redis.call('ZADD', ns .. ':jobs:' .. ARGV[3], now, id)
redis.call('SADD', ns .. ':unfinished:' .. ARGV[3], id)
if idempotency ~= '' then
  redis.call('HSET', job_key(id), 'idempotency', idempotency)
  redis.call('HSET', remembered, 'job', id, 'fingerprint', ARGV[7])
  redis.call('PEXPIRE', remembered, lifetime_ms)
end
if ARGV[11] == '1' then
  redis.call('HSET', job_key(id), 'stage', 'fetching')
  redis.call('ZADD', FETCHING, now, id)
else
  enqueue(id)
end
count('submitted')
changed(id)
return { 'created', id }
