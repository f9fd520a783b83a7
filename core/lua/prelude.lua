-- What the steps share. Every step reads and validates before its first write: Lua in Redis has no rollback.
-- KEYS[1] is the namespace that all keys begin with; one Redis, no cluster, so keys are made here.
local ns = KEYS[1]
local PRIORITIES = { 'high', 'normal', 'low' }
local FETCHING = ns .. ':fetching' -- jobs whose source is to be fetched, by the moment from which a fetcher may take each
local KEPT = { 'inputs', 'products', 'results' } -- what ended jobs leave behind, each by the moment from which its lifetime counts
local OUTBOX = ns .. ':outbox' -- deliveries that are owed, by the moment from which a sender may take each

local function job_key(id) return ns .. ':job:' .. id end

local function delivery_key(id) return ns .. ':delivery:' .. id end

local function kept_key(what) return ns .. ':kept:' .. what end

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function job_fields(id, ...)
  return redis.call('HMGET', job_key(id), ...)
end

-- Raises the record's version and tells whoever watches; the message is a hint, the record is the truth.
local function changed(id)
  local version = redis.call('HINCRBY', job_key(id), 'version', 1)
  redis.call('PUBLISH', ns .. ':changed:' .. id, version)
end

local function count(what, by)
  redis.call('HINCRBY', ns .. ':counters', what, by or 1)
end

-- Whether what a place in the queue or a lease stands for is still there: a record that was evicted or removed by hand
-- must not hold up all others for ever.
local function has_record(id)
  return redis.call('HEXISTS', job_key(id), 'fixed') == 1
end

-- How many jobs of a key have not ended. Before it says that there are `most`, it looks at the records of a hundred of them, any
-- hundred, and drops what has ended or is gone: should a step have missed some, they keep no key out for ever.
local function unfinished(key_id, most)
  local ids = ns .. ':unfinished:' .. key_id
  if redis.call('SCARD', ids) < most then return redis.call('SCARD', ids) end
  for _, id in ipairs(redis.call('SRANDMEMBER', ids, 100)) do
    local job = job_fields(id, 'state', 'finished_at')
    if not job[1] or job[2] then redis.call('SREM', ids, id) end
  end
  return redis.call('SCARD', ids)
end

-- A total anew from those that are left: what a missing record had added to it cannot be known.
local function recount(total, sets)
  local ms = 0
  for _, set in ipairs(sets) do
    for _, id in ipairs(redis.call('ZRANGE', set, 0, -1)) do ms = ms + (tonumber(job_fields(id, 'work_ms')[1]) or 0) end
  end
  redis.call('HSET', ns .. ':totals', total, ms)
end

-- Puts a job where claims look for it, at the place that its sequence number gives. A key that had nothing waiting
-- starts at the virtual time of whoever was served last: it neither owes nor is owed (start-time fair queueing).
local function enqueue(id)
  local job = job_fields(id, 'priority', 'key_id', 'seq', 'work_ms')
  local priority, key_id, seq = job[1], job[2], job[3]
  redis.call('ZADD', ns .. ':pending:' .. priority, seq, id)
  redis.call('ZADD', ns .. ':lane:' .. priority .. ':' .. key_id, seq, id)
  redis.call('HINCRBY', ns .. ':totals', 'pending_ms:' .. priority, job[4])
  local served = redis.call('HGET', ns .. ':virtual_time', priority) or 0
  redis.call('ZADD', ns .. ':lanes:' .. priority, 'NX', served, key_id)
end

local function dequeue(id)
  local job = job_fields(id, 'priority', 'key_id', 'work_ms')
  local priority, key_id = job[1], job[2]
  if redis.call('ZREM', ns .. ':pending:' .. priority, id) == 0 then return end
  local lane = ns .. ':lane:' .. priority .. ':' .. key_id
  redis.call('ZREM', lane, id)
  redis.call('HINCRBY', ns .. ':totals', 'pending_ms:' .. priority, -job[3])
  if redis.call('EXISTS', lane) == 0 then redis.call('ZREM', ns .. ':lanes:' .. priority, key_id) end
end

local function drop_fetch(id)
  if redis.call('ZREM', FETCHING, id) == 1 then redis.call('HDEL', job_key(id), 'stage', 'fetch_owner') end
end

local function drop_lease(id)
  local job = job_fields(id, 'slot', 'work_ms')
  if redis.call('ZREM', ns .. ':leases', id) == 1 then redis.call('HINCRBY', ns .. ':totals', 'running_ms', -job[2]) end
  if job[1] then redis.call('SREM', ns .. ':slot:' .. job[1], id) end
  redis.call('HDEL', job_key(id), 'owner', 'slot')
end

local function requeue(id)
  drop_lease(id)
  redis.call('HSET', job_key(id), 'state', 'queued', 'progress', 0)
  redis.call('HDEL', job_key(id), 'stage')
  enqueue(id)
  changed(id)
end

-- What a job owes to the outside when it ends, each as JSON. Read before a step's first write: it fails on a broken record.
local function deliveries_of(id)
  local owed = {}
  for n, delivery in ipairs(cjson.decode(redis.call('HGET', job_key(id), 'fixed')).deliveries) do owed[n] = cjson.encode(delivery) end
  return owed
end

-- What an ending adds to the totals: one more of its kind, its audio, how long its last attempt ran, what failed. Read before
-- a step's first write: it fails on a broken error.
local function totals_of(id, state, now, fields)
  local job = job_fields(id, 'state', 'work_ms', 'started_at')
  local totals = { [state] = 1, ['audio_ms:' .. state] = job[2] or 0 }
  if job[1] == 'running' then totals['run_ms:' .. state] = math.max(0, now - (job[3] or now)) end
  for i = 1, #fields, 2 do
    if fields[i] == 'error' then totals['failed:' .. cjson.decode(fields[i + 1]).code] = 1 end
  end
  return totals
end

-- The one way into a terminal state: the record and what it owes to the outside change in the same step.
local function finish(id, state, deliveries, fields)
  local now = now_ms()
  local totals = totals_of(id, state, now, fields)
  redis.call('SREM', ns .. ':unfinished:' .. (job_fields(id, 'key_id')[1] or ''), id)
  dequeue(id)
  drop_fetch(id)
  drop_lease(id)
  redis.call('HSET', job_key(id), 'state', state, 'finished_at', now, unpack(fields))
  if state == 'succeeded' then redis.call('HSET', job_key(id), 'progress', 1) end
  redis.call('HDEL', job_key(id), 'stage')
  for n, delivery in ipairs(deliveries) do
    local delivery_id = id .. ':' .. n
    redis.call('HSET', delivery_key(delivery_id), 'job', id, 'state', state, 'what', delivery, 'tries', 0)
    redis.call('ZADD', OUTBOX, now, delivery_id)
    redis.call('ZADD', ns .. ':undelivered', now, delivery_id)
  end
  for _, what in ipairs(KEPT) do redis.call('ZADD', kept_key(what), now, id) end
  for name, by in pairs(totals) do count(name, by) end
  changed(id)
end

-- Takes out of the outbox what was delivered, or never will be. Its place there moves with each try, the one in `undelivered`
-- stays: that is how old it is.
local function settle(delivery_id)
  redis.call('ZREM', OUTBOX, delivery_id)
  redis.call('ZREM', ns .. ':undelivered', delivery_id)
end

-- The deliveries that an ended job has, or had: numbered from 1. They are found without the record, which may be broken.
local function delivery_ids(id)
  local ids = {}
  while redis.call('EXISTS', delivery_key(id .. ':' .. #ids + 1)) == 1 do ids[#ids + 1] = id .. ':' .. #ids + 1 end
  return ids
end

-- Forgets a job in every place but remembered submits and claims, which end by themselves. → whether there was a record
local function forget(id)
  for _, what in ipairs(KEPT) do redis.call('ZREM', kept_key(what), id) end
  redis.call('ZREM', ns .. ':jobs', id)
  if redis.call('EXISTS', job_key(id)) == 0 then return false end
  local key_id = job_fields(id, 'key_id')[1]
  dequeue(id)
  drop_fetch(id)
  drop_lease(id)
  for _, delivery_id in ipairs(delivery_ids(id)) do
    settle(delivery_id)
    redis.call('DEL', delivery_key(delivery_id))
  end
  if key_id then
    redis.call('ZREM', ns .. ':jobs:' .. key_id, id)
    redis.call('SREM', ns .. ':unfinished:' .. key_id, id)
  end
  changed(id)
  redis.call('DEL', job_key(id))
  return true
end

-- Whether this take of the delivery is the one that may go on: a hand-back, an end or a later take ends it, and so does the
-- deletion of its job.
local function is_sent_by(id, token)
  local delivery = redis.call('HMGET', delivery_key(id), 'take', 'owner')
  return redis.call('ZSCORE', OUTBOX, id) and delivery[1] == token and delivery[2]
end

-- Writes down how a try ended; any outcome but pending is the delivery's last.
local function end_delivery(id, outcome, answer)
  local key = delivery_key(id)
  answer.at_ms = tonumber(redis.call('HGET', key, 'taken_at'))
  redis.call('HSET', key, 'try:' .. redis.call('HINCRBY', key, 'tries', 1), cjson.encode(answer))
  redis.call('HDEL', key, 'owner')
  if outcome ~= 'pending' then
    redis.call('HSET', key, 'outcome', outcome)
    settle(id)
  end
  count('deliveries:' .. (outcome == 'pending' and 'retried' or outcome))
end

local function is_held(id, attempt)
  local job = job_fields(id, 'state', 'attempt')
  return job[1] == 'running' and job[2] == attempt
end

-- Whether this take of the fetch is the one that may go on: a cancel, an end, a hand-back or a later take ends it.
local function is_fetched_by(id, token)
  local job = job_fields(id, 'fetch', 'fetch_owner')
  return redis.call('ZSCORE', FETCHING, id) and job[1] == token and job[2]
end

-- What all of a holder's fetches, or of its deliveries, hear when it beats.
local function beat_all(places, is_theirs)
  local verdicts = {}
  for i = 3, #ARGV, 2 do
    local is_held = is_theirs(ARGV[i], ARGV[i + 1])
    if is_held and ARGV[2] == '1' then redis.call('ZADD', places, now_ms() + ARGV[1], ARGV[i]) end
    verdicts[#verdicts + 1] = is_held and 'held' or 'lost'
  end
  return verdicts
end

-- A runner died with the job: back to its place, or set aside once it has taken too many runners with it. → its state, or
-- nil if there is no record left, only the lease.
local function lose(id, max_losses)
  if not has_record(id) then
    redis.call('ZREM', ns .. ':leases', id)
    recount('running_ms', { ns .. ':leases' })
    return nil
  end
  local deliveries = deliveries_of(id)
  local losses = redis.call('HINCRBY', job_key(id), 'losses', 1)
  count('lost_runners')
  local job = job_fields(id, 'cancel_requested', 'stage')
  if job[1] == '1' then
    finish(id, 'cancelled', deliveries, {})
  elseif losses >= max_losses then
    local message = 'The worker died ' .. losses .. ' times while it ran this job, last in stage ' .. (job[2] or 'decode')
      .. '. The recording may be what kills it: try another encoding of it, or a shorter clip.'
    finish(id, 'failed', deliveries, { 'error', cjson.encode({ code = 'worker_lost', message = message }) })
  else
    requeue(id)
  end
  return redis.call('HGET', job_key(id), 'state')
end
