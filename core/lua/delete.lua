-- Forgets a job; a runner that still holds it finds its lease lost. ARGV: id → 1, or 0 if there was none
return forget(ARGV[1]) and 1 or 0
