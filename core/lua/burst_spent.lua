-- Posts what a call cost that took no job. ARGV: day as 2026-11-22, cost in millionths of a dollar
post(ARGV[1], 'spent', ARGV[2])
post(ARGV[1], 'calls', 1)
