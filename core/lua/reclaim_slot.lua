-- A worker that starts in a slot takes back what its predecessor there held. ARGV: slot, new owner, most losses → {id, state, …}
local taken, most_losses = {}, whole(3)
for _, id in ipairs(redis.call('SMEMBERS', ns .. ':slot:' .. ARGV[1])) do
  if job_fields(id, 'owner')[1] ~= ARGV[2] then
    local state = lose(id, most_losses)
    if state then
      taken[#taken + 1] = id
      taken[#taken + 1] = state
    else
      redis.call('SREM', ns .. ':slot:' .. ARGV[1], id)
    end
  end
end
return taken
