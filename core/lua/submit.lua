-- ARGV: id, fixed (JSON), key_id, priority, work_ms, idempotency key or '', fingerprint, its lifetime in ms, most jobs queued,
--       '1' if it has a source, which is fetched before it is pending
-- → {'created' | 'existing', id}, {'conflict', id of the earlier job}, {'full', jobs queued}
local id, idempotency = ARGV[1], ARGV[6]
if redis.call('EXISTS', job_key(id)) == 1 then return { 'existing', id } end
local remembered = ns .. ':idempotency:' .. ARGV[3] .. ':' .. idempotency
if idempotency ~= '' then
  local earlier = redis.call('HMGET', remembered, 'job', 'fingerprint')
  if earlier[1] and redis.call('EXISTS', job_key(earlier[1])) == 1 then
    return { earlier[2] == ARGV[7] and 'existing' or 'conflict', earlier[1] }
  end
end
local queued = redis.call('ZCARD', FETCHING)
for _, priority in ipairs(PRIORITIES) do queued = queued + redis.call('ZCARD', ns .. ':pending:' .. priority) end
if queued >= tonumber(ARGV[9]) then return { 'full', queued } end

local now = now_ms()
redis.call('HSET', job_key(id), 'fixed', ARGV[2], 'key_id', ARGV[3], 'priority', ARGV[4], 'work_ms', ARGV[5],
  'state', 'queued', 'attempt', 0, 'losses', 0, 'progress', 0, 'created_at', now, 'seq', redis.call('INCR', ns .. ':seq'))
redis.call('ZADD', ns .. ':jobs', now, id)
redis.call('ZADD', ns .. ':jobs:' .. ARGV[3], now, id)
if idempotency ~= '' then
  redis.call('HSET', remembered, 'job', id, 'fingerprint', ARGV[7])
  redis.call('PEXPIRE', remembered, ARGV[8])
end
if ARGV[10] == '1' then
  redis.call('HSET', job_key(id), 'stage', 'fetching')
  redis.call('ZADD', FETCHING, now, id)
else
  enqueue(id)
end
count('submitted')
changed(id)
return { 'created', id }
