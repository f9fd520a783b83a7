-- The files are gone: the records need not name them any more, and with its results a job goes altogether.
-- ARGV: inputs | products | results, then ids
local what = ARGV[1]
for i = 2, #ARGV do
  local id = ARGV[i]
  if what == 'results' then
    forget(id)
  else
    redis.call('ZREM', kept_key(what), id)
  end
  if what == 'products' then
    for _, field in ipairs(redis.call('HKEYS', job_key(id))) do
      if string.find(field, '^product') then redis.call('HDEL', job_key(id), field) end
    end
  end
  count('expired:' .. what)
end
