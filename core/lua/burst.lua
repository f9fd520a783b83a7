-- Takes pending jobs for one call to Modal and reserves what it may cost, in one step: there is no call without both, and none
-- beyond a cap. A repeat gives the same again. Jobs that are not pending any more are left out; of none nothing is reserved.
-- ARGV: burst id, owner, slot, lease in ms, how long the call may work in ms, reserve, cap of the day, cap of the month (in millionths
--       of a dollar), day as 2026-11-22, bounds of the histogram of waits in s (JSON), job id … → {'taken', id, attempt, …} or
--       {'over', committed of the day, of the month}
local key, by = ns .. ':burst:' .. ARGV[1], { owner = ARGV[2], slot = ARGV[3], lease_ms = whole(4), runner = 'modal' }
local deadline_ms, reserve, cap_of_day, cap_of_month, day, bounds = whole(5), whole(6), whole(7), whole(8), day_of(9), numbers_of(10)
local taken = redis.call('HGET', key, 'jobs')
if taken then
  local reply = { 'taken' }
  for _, pair in ipairs(cjson.decode(taken)) do
    reply[#reply + 1] = pair[1]
    reply[#reply + 1] = pair[2]
  end
  return reply
end
local of_day, of_month = committed(day)
if of_day + reserve > cap_of_day or of_month + reserve > cap_of_month then return { 'over', of_day, of_month } end

local jobs, reply = {}, { 'taken' }
for i = 11, #ARGV do
  local id = ARGV[i]
  local priority = has_record(id) and job_fields(id, 'priority')[1]
  if priority and redis.call('ZSCORE', ns .. ':pending:' .. priority, id) and pcall(deliveries_of, id) then
    local attempt = take(id, by, bounds)
    jobs[#jobs + 1] = { id, attempt }
    reply[#reply + 1] = id
    reply[#reply + 1] = attempt
  end
end
if #jobs == 0 then return reply end
redis.call('HSET', key, 'jobs', cjson.encode(jobs), 'reserved', reserve, 'day', day, 'deadline_ms', deadline_ms)
redis.call('ZADD', ns .. ':bursts', now_ms(), ARGV[1])
post(day, 'reserved', reserve)
post(day, 'calls', 1)
post(day, 'jobs', #jobs)
return reply
