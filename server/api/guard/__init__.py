"""The guard over HTTP, for programs."""
