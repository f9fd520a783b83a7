-- ARGV: key_id, most jobs that it may have → its jobs that have not ended
return unfinished(ARGV[1], tonumber(ARGV[2]))
