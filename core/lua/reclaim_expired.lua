-- Takes back jobs whose lease ran out, by Redis' own clock. ARGV: most losses, most jobs at once → {id, state, …}
local taken, most_losses = {}, whole(1)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ns .. ':leases', '-inf', now_ms(), 'LIMIT', 0, ARGV[2])) do
  local state = lose(id, most_losses)
  if state then
    taken[#taken + 1] = id
    taken[#taken + 1] = state
  end
end
return taken
