-- What the steps share. Every step reads and validates before its first write: Lua in Redis has no rollback.
-- KEYS[1] is the namespace that all keys begin with; one Redis, no cluster, so keys are made here.
local ns = KEYS[1]
local PRIORITIES = { 'high', 'normal', 'low' }
local FETCHING = ns .. ':fetching' -- jobs whose source is to be fetched, by the moment from which a fetcher may take each
local KEPT = { 'inputs', 'products', 'results' } -- what ended jobs leave behind, each by the moment from which its lifetime counts
local OUTBOX = ns .. ':outbox' -- deliveries that are owed, by the moment from which a sender may take each

local function job_key(id) return ns .. ':job:' .. id end

local function idempotency_key(key_id, said) return ns .. ':idempotency:' .. key_id .. ':' .. said end

local function delivery_key(id) return ns .. ':delivery:' .. id end

-- Arguments that a step reckons with, read before it writes anything.
local function number(n) return assert(tonumber(ARGV[n]), 'argument ' .. n .. ' is no number') end

-- Of those that Redis counts with, exactly.
local function is_whole(value) return type(value) == 'number' and value % 1 == 0 and math.abs(value) < 2 ^ 53 end

local function whole(n)
  local value = number(n)
  return assert(is_whole(value) and value, 'argument ' .. n .. ' is no whole number')
end

local function object_of(json)
  local found = cjson.decode(json)
  return assert(type(found) == 'table' and found, 'no object')
end

-- The numbers of an argument that is a JSON list.
local function numbers_of(n)
  local found = object_of(ARGV[n])
  for _, value in ipairs(found) do assert(type(value) == 'number', 'argument ' .. n .. ' holds what is no number') end
  return found
end

local function day_of(n) return assert(string.match(ARGV[n], '^%d%d%d%d%-%d%d%-%d%d$'), 'argument ' .. n .. ' is no day') end

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
-- starts at the virtual time of whoever was served last, or later if its last jobs have had more than that (start-time fair
-- queueing): one that sends its next job when the one before has started comes no oftener to its turn than one with a backlog.
local function enqueue(id)
  local job = job_fields(id, 'priority', 'key_id', 'seq', 'work_ms')
  local priority, key_id, seq = job[1], job[2], job[3]
  redis.call('ZADD', ns .. ':pending:' .. priority, seq, id)
  redis.call('ZADD', ns .. ':lane:' .. priority .. ':' .. key_id, seq, id)
  redis.call('HINCRBY', ns .. ':totals', 'pending_ms:' .. priority, job[4])
  local served = tonumber(redis.call('HGET', ns .. ':virtual_time', priority) or 0)
  local left = tonumber(redis.call('ZSCORE', ns .. ':left:' .. priority, key_id) or 0)
  redis.call('ZADD', ns .. ':lanes:' .. priority, 'NX', math.max(served, left), key_id)
  redis.call('ZREM', ns .. ':left:' .. priority, key_id)
end

-- A key that has nothing waiting any more leaves the turn; where it stood is remembered until the others have come to there.
local function leave(priority, key_id)
  local lanes = ns .. ':lanes:' .. priority
  local turn = redis.call('ZSCORE', lanes, key_id)
  if turn then redis.call('ZADD', ns .. ':left:' .. priority, turn, key_id) end
  redis.call('ZREM', lanes, key_id)
end

local function dequeue(id)
  local job = job_fields(id, 'priority', 'key_id', 'work_ms')
  local priority, key_id = job[1], job[2]
  if redis.call('ZREM', ns .. ':pending:' .. priority, id) == 0 then return end
  local lane = ns .. ':lane:' .. priority .. ':' .. key_id
  redis.call('ZREM', lane, id)
  redis.call('HINCRBY', ns .. ':totals', 'pending_ms:' .. priority, -job[3])
  if redis.call('EXISTS', lane) == 0 then leave(priority, key_id) end
end

local function drop_fetch(id)
  if redis.call('ZREM', FETCHING, id) == 1 then redis.call('HDEL', job_key(id), 'stage', 'fetch_owner') end
end

-- One more in the histogram of waits, in the one bucket that it falls into: whoever reads adds them up.
-- `bounds`: in s.
local function count_wait(priority, wait_ms, bounds)
  local bucket = '+Inf'
  for _, bound in ipairs(bounds) do
    if wait_ms <= bound * 1000 then
      bucket = tostring(bound)
      break
    end
  end
  redis.call('HINCRBY', ns .. ':waits', priority .. ':' .. bucket, 1)
  redis.call('HINCRBY', ns .. ':waits', priority .. ':sum_ms', wait_ms)
end

-- A pending job becomes `by`'s: its owner, slot, lease_ms, and whether it runs here ('local') or on 'modal'. Its lane pays for it.
-- `bounds`: of the histogram of waits. → the attempt, its fencing token
local function take(id, by, bounds)
  local job, now = job_fields(id, 'work_ms', 'priority', 'key_id', 'created_at'), now_ms()
  redis.call('ZINCRBY', ns .. ':lanes:' .. job[2], job[1], job[3])
  dequeue(id)
  local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
  redis.call('HSET', job_key(id), 'state', 'running', 'owner', by.owner, 'slot', by.slot, 'runner', by.runner, 'started_at', now, 'progress', 0)
  redis.call('ZADD', ns .. ':leases', now + by.lease_ms, id)
  if redis.call('SCARD', ns .. ':slot:' .. by.slot) == 0 then redis.call('HSET', ns .. ':busy_since', by.slot, now) end
  redis.call('SADD', ns .. ':slot:' .. by.slot, id)
  redis.call('HINCRBY', ns .. ':totals', 'running_ms', job[1])
  count('attempts')
  if attempt == 1 and job[4] then count_wait(job[2], math.max(0, now - job[4]), bounds) end
  changed(id)
  return tostring(attempt)
end

local function drop_lease(id)
  local job = job_fields(id, 'slot', 'work_ms')
  if redis.call('ZREM', ns .. ':leases', id) == 1 then redis.call('HINCRBY', ns .. ':totals', 'running_ms', -job[2]) end
  if job[1] then
    redis.call('SREM', ns .. ':slot:' .. job[1], id)
    if redis.call('EXISTS', ns .. ':slot:' .. job[1]) == 0 then redis.call('HDEL', ns .. ':busy_since', job[1]) end
  end
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
  for n, delivery in ipairs(object_of(redis.call('HGET', job_key(id), 'fixed')).deliveries) do owed[n] = cjson.encode(delivery) end
  return owed
end

local function check_error(error) assert(object_of(error).code, 'an error without a code') end

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
  local job = job_fields(id, 'key_id', 'idempotency')
  local key_id = job[1] or ''
  dequeue(id)
  drop_fetch(id)
  drop_lease(id)
  for _, delivery_id in ipairs(delivery_ids(id)) do
    settle(delivery_id)
    redis.call('DEL', delivery_key(delivery_id))
  end
  redis.call('ZREM', ns .. ':jobs:' .. key_id, id)
  redis.call('SREM', ns .. ':unfinished:' .. key_id, id)
  -- What an idempotency key is held to names the source, the prompt and the callback.
  local remembered = idempotency_key(key_id, job[2] or '')
  if redis.call('HGET', remembered, 'job') == id then redis.call('DEL', remembered) end
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
  answer.at_ms = tonumber(redis.call('HGET', key, 'taken_at') or now_ms())
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
  local lease_ms = whole(1)
  for i = 3, #ARGV, 2 do
    local is_held = is_theirs(ARGV[i], ARGV[i + 1])
    if is_held and ARGV[2] == '1' then redis.call('ZADD', places, now_ms() + lease_ms, ARGV[i]) end
    verdicts[#verdicts + 1] = is_held and 'held' or 'lost'
  end
  return verdicts
end

-- A record whose fixed part cannot be read is of no use to anybody: its job ends, and owes nothing that could be known, so that
-- it does not stand before all others for ever.
local function set_aside(id)
  local message = 'The record of this job is broken in Redis. Send the recording again.'
  finish(id, 'failed', {}, { 'error', cjson.encode({ code = 'internal_error', message = message }) })
end

-- A runner died with the job: back to its place, or set aside once it has taken too many runners with it. → its state, or
-- nil if there is no record left, only the lease.
local function lose(id, max_losses)
  if not has_record(id) then
    redis.call('ZREM', ns .. ':leases', id)
    recount('running_ms', { ns .. ':leases' })
    return nil
  end
  local is_readable, deliveries = pcall(deliveries_of, id)
  local losses = redis.call('HINCRBY', job_key(id), 'losses', 1)
  count('lost_runners')
  local job = job_fields(id, 'cancel_requested', 'stage')
  if not is_readable then
    set_aside(id)
  elseif job[1] == '1' then
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

-- The ledger: one hash per month, whose fields are a day and what was posted to it, in millionths of a dollar.
local function ledger_of(day) return ns .. ':ledger:' .. string.sub(day, 1, 7) end

local function post(day, what, by)
  redis.call('HINCRBY', ledger_of(day), day .. ':' .. what, by)
end

-- What the day and its month have cost, and what calls under way may still cost.
local function committed(day)
  local of_day, of_month, entries = 0, 0, redis.call('HGETALL', ledger_of(day))
  for i = 1, #entries, 2 do
    local on, what = string.match(entries[i], '^(.+):(%a+)$')
    if what == 'reserved' or what == 'spent' then
      of_month = of_month + entries[i + 1]
      if on == day then of_day = of_day + entries[i + 1] end
    end
  end
  return of_day, of_month
end
