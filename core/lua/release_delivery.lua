-- Hands a delivery back unharmed, to be taken again at once. ARGV: id, token → 'pending' or 'lost'
local id = ARGV[1]
if not is_sent_by(id, ARGV[2]) then return 'lost' end
redis.call('HDEL', delivery_key(id), 'owner')
redis.call('ZADD', OUTBOX, now_ms(), id)
return 'pending'
