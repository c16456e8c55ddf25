"""Features, and the mapping that makes them of samples and events."""
