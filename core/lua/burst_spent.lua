-- Posts what a call cost that took no job. ARGV: day as 2026-11-22, cost in millionths of a dollar
local day, cost = day_of(1), whole(2)
post(day, 'spent', cost)
post(day, 'calls', 1)
