"""The handling of a request: it is read, bounded and answered."""
