-- Forgets a job; a runner that still holds it finds its lease lost. ARGV: id → 1, or 0 if there was none
local id = ARGV[1]
if redis.call('EXISTS', job_key(id)) == 0 then return 0 end
local deliveries = deliveries_of(id)
local key_id = job_fields(id, 'key_id')[1]
dequeue(id)
drop_fetch(id)
drop_lease(id)
for n = 1, #deliveries do
  settle(id .. ':' .. n)
  redis.call('DEL', delivery_key(id .. ':' .. n))
end
redis.call('ZREM', ns .. ':jobs', id)
if key_id then
  redis.call('ZREM', ns .. ':jobs:' .. key_id, id)
  redis.call('SREM', ns .. ':unfinished:' .. key_id, id)
end
changed(id)
redis.call('DEL', job_key(id))
return 1
