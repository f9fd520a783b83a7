-- Keeps the id of a burst's call, so that whoever comes after asks for its result. ARGV: burst id, call id → 1, or 0 if it is settled
local key = ns .. ':burst:' .. ARGV[1]
if redis.call('EXISTS', key) == 0 then return 0 end
if redis.call('HGET', key, 'call_id') == ARGV[2] then return 1 end
redis.call('HSET', key, 'call_id', ARGV[2], 'called_at', now_ms())
return 1
