-- Gives leadership up, so that another has it at once. ARGV: holder → 1 if it led
local leader = ns .. ':leader'
if redis.call('GET', leader) ~= ARGV[1] then return 0 end
redis.call('DEL', leader)
return 1
