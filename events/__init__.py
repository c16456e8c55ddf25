"""Usage events: their shape, and the check of reports about them. Nothing here does I/O."""
