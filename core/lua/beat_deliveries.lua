-- One call for all deliveries of a sender; writes only when asked to renew. ARGV: lease in ms, '1' to renew, then per delivery:
-- id, token → per delivery 'held' or 'lost'
local verdicts = {}
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  if is_sent_by(id, ARGV[i + 1]) then
    if ARGV[2] == '1' then redis.call('ZADD', OUTBOX, now_ms() + ARGV[1], id) end
    verdicts[#verdicts + 1] = 'held'
  else
    verdicts[#verdicts + 1] = 'lost'
  end
end
return verdicts
