-- Ends a burst: what was reserved becomes what it cost; that much when nobody can say. ARGV: burst id, cost in millionths of a dollar
-- or '' → 1, or 0 if it was settled before
local key = ns .. ':burst:' .. ARGV[1]
local burst = redis.call('HMGET', key, 'reserved', 'day')
local cost = ARGV[2] ~= '' and whole(2)
if not burst[1] then return 0 end
post(burst[2], 'reserved', -burst[1])
post(burst[2], 'spent', cost or burst[1])
redis.call('DEL', key)
redis.call('ZREM', ns .. ':bursts', ARGV[1])
return 1
