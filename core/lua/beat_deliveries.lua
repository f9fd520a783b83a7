-- One call for all deliveries of a sender; writes only when asked to renew. ARGV: lease in ms, '1' to renew, then per delivery:
-- id, token → per delivery 'held' or 'lost'
return beat_all(OUTBOX, is_sent_by)
