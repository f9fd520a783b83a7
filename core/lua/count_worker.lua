-- Adds to the totals what a worker has counted since it was last heard. It tells the counts of its process' whole life, so that a
-- repeat adds nothing and a report that got lost is made up for by the next. A process that is silent for longer than the
-- record lives would be counted again from nothing: that is far longer than a worker is silent.
-- ARGV: slot, boot id, life of the record in ms, VRAM used and there in bytes ('' if none), then name, count …
local record = ns .. ':figures:' .. ARGV[1]
local is_known = redis.call('HGET', record, 'boot') == ARGV[2]
local added, life_ms = {}, whole(3)
for i = 6, #ARGV, 2 do
  whole(i + 1)
  local before = is_known and redis.call('HGET', record, 'count:' .. ARGV[i]) or 0
  if ARGV[i + 1] - before > 0 then added[ARGV[i]] = ARGV[i + 1] - before end
end
if not is_known then redis.call('DEL', record) end
redis.call('HSET', record, 'boot', ARGV[2], 'vram_used_bytes', ARGV[4], 'vram_size_bytes', ARGV[5])
for i = 6, #ARGV, 2 do redis.call('HSET', record, 'count:' .. ARGV[i], ARGV[i + 1]) end
for name, by in pairs(added) do count(name, by) end
redis.call('PEXPIRE', record, life_ms)
