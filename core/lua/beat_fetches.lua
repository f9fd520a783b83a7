-- One call for all fetches of a fetcher; writes only when asked to renew. ARGV: lease in ms, '1' to renew, then per fetch: id, token
-- → per fetch 'held' or 'lost'
return beat_all(FETCHING, is_fetched_by)
