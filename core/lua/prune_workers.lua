-- Forgets the places of workers that are gone: those that say nothing any more, hold nothing, and whose counts have been forgotten.
-- → how many
local pruned = 0
for _, slot in ipairs(redis.call('SMEMBERS', ns .. ':workers')) do
  if redis.call('EXISTS', ns .. ':worker:' .. slot, ns .. ':slot:' .. slot, ns .. ':figures:' .. slot) == 0 then
    pruned = pruned + redis.call('SREM', ns .. ':workers', slot)
  end
end
return pruned
