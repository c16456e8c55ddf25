"""Read, limit and answer HTTP requests."""
