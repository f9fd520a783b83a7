-- Forgets a job; a runner that still holds it finds its lease lost. ARGV: id → 1, or 0 if there was none
local id = ARGV[1]
if redis.call('EXISTS', job_key(id)) == 0 then return 0 end
local job = job_fields(id, 'key_id', 'idempotency')
local key_id = job[1] or ''
dequeue(id)
drop_fetch(id)
drop_lease(id)
local n = 1
while redis.call('DEL', delivery_key(id .. ':' .. n)) == 1 do
  settle(id .. ':' .. n)
  n = n + 1
end
redis.call('ZREM', ns .. ':jobs', id)
redis.call('ZREM', ns .. ':jobs:' .. key_id, id)
redis.call('SREM', ns .. ':unfinished:' .. key_id, id)
-- What an idempotency key is held to names the source, the prompt and the callback.
local remembered = idempotency_key(key_id, job[2] or '')
if redis.call('HGET', remembered, 'job') == id then redis.call('DEL', remembered) end
changed(id)
redis.call('DEL', job_key(id))
return 1
