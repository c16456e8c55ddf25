"""Jobs: work that takes longer than a request is queued, and done by a tick."""
