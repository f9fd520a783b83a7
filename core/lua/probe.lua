-- Whether Redis takes writes: one that costs memory, and as it is not to outlive us is not written to the disk. → 1
redis.set_repl(redis.REPL_NONE)
redis.call('SET', ns .. ':probe', 1, 'PX', 1000)
return 1
