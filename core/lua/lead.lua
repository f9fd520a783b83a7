-- Makes a holder the one that leads, unless another does. ARGV: holder, for how long in ms → 1 if it leads from now on
local leader, holder, ttl_ms = ns .. ':leader', ARGV[1], whole(2)
if (redis.call('GET', leader) or holder) ~= holder then return 0 end
redis.call('SET', leader, holder, 'PX', ttl_ms)
return 1
