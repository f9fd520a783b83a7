-- Ended jobs whose inputs, products or results are past their lifetime, the oldest first. Results that a delivery still needs are
-- looked at again after a pause, so that they do not stand before those behind them.
-- ARGV: inputs | products | results, lifetime in ms, most jobs, pause in ms → {id, result key or '', source or '', …}
local what, first_kept, most, pause_ms = ARGV[1], now_ms() - whole(2), whole(3), whole(4)
local function is_owed(id)
  for _, delivery_id in ipairs(delivery_ids(id)) do
    if redis.call('ZSCORE', ns .. ':undelivered', delivery_id) then return true end
  end
  return false
end

-- '' of a broken record too: its files are no less to be deleted.
local function source_of(fixed)
  local is_json, said = pcall(cjson.decode, fixed)
  return is_json and type(said) == 'table' and type(said.source) == 'string' and said.source or ''
end

local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', kept_key(what), '-inf', first_kept, 'LIMIT', 0, most)) do
  if what == 'results' and is_owed(id) then
    redis.call('ZADD', kept_key(what), first_kept + pause_ms, id)
  else
    local job = job_fields(id, 'result_key', 'fixed')
    found[#found + 1] = id
    found[#found + 1] = job[1] or ''
    found[#found + 1] = source_of(job[2] or '')
  end
end
return found
