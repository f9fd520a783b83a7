-- Keeps a finished stage's product for a retry. ARGV: id, attempt, stage, key in the file store, its SHA-256 → 'held' or 'lost'
if not is_held(ARGV[1], ARGV[2]) then return 'lost' end
redis.call('HSET', job_key(ARGV[1]), 'product:' .. ARGV[3], ARGV[4], 'product_sha256:' .. ARGV[3], ARGV[5])
return 'held'
