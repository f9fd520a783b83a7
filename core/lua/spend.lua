-- Takes one request out of what a caller may send: a bucket that holds a window's worth and fills evenly (GCRA).
-- ARGV: who, most in a window, the window in ms → ms until the next one may come, 0 when this one may
-- Not written to the disk, where every call would wait for it: who meets a Redis that starts again finds the bucket full.
redis.set_repl(redis.REPL_NONE)
local key, apart_ms, now = ns .. ':rate:' .. ARGV[1], ARGV[3] / ARGV[2], now_ms()
-- When the bucket is full again; never later than an empty one is, should the clock go back.
local full_at = math.min(math.max(tonumber(redis.call('GET', key) or 0), now), now + ARGV[3])
local wait_ms = math.floor(full_at + apart_ms - now - ARGV[3] + 0.5)
if wait_ms > 0 then return wait_ms end
redis.call('SET', key, string.format('%.3f', full_at + apart_ms), 'PX', ARGV[3])
return 0
