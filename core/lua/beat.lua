-- One call for all jobs of a runner. Writes only what changed and renews leases only when asked, so that a beat with no
-- news costs nothing, and is not written to the disk: after a restart of Redis stages and progress are told anew, and no lease is
-- taken back before every runner could renew (docs/adr/0007). ARGV: lease in ms, '1' to renew, then per job: id, attempt, stage, progress
-- → per job 'held', 'lost' or 'cancel'
local verdicts, lease_ms = {}, whole(1)
for i = 6, #ARGV, 4 do number(i) end
redis.set_repl(redis.REPL_REPLICA)
for i = 3, #ARGV, 4 do
  local id, attempt, stage, progress = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if not is_held(id, attempt) then
    verdicts[#verdicts + 1] = 'lost'
  else
    local job = job_fields(id, 'stage', 'progress', 'cancel_requested')
    if stage ~= '' and (job[1] ~= stage or tonumber(progress) > tonumber(job[2])) then
      redis.call('HSET', job_key(id), 'stage', stage, 'progress', math.max(tonumber(progress), tonumber(job[2])))
      changed(id)
    end
    if ARGV[2] == '1' then redis.call('ZADD', ns .. ':leases', now_ms() + lease_ms, id) end
    verdicts[#verdicts + 1] = job[3] == '1' and 'cancel' or 'held'
  end
end
return verdicts
