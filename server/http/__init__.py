"""Read, bound and answer requests."""
