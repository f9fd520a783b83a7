-- The files are gone: the records need not name them any more, and with its results a job goes altogether.
-- ARGV: inputs | products | results, then ids
local what = ARGV[1]
for i = 2, #ARGV do
  local id = ARGV[i]
  local was_kept
  if what == 'results' then
    was_kept = forget(id)
  else
    was_kept = redis.call('ZREM', kept_key(what), id) == 1
  end
  if what == 'products' then
    for _, field in ipairs(redis.call('HKEYS', job_key(id))) do
      if string.find(field, '^product') then redis.call('HDEL', job_key(id), field) end
    end
  end
  if was_kept then count('expired:' .. what) end
end
