"""The guard's rules: which use is allowed now, and why not. Nothing here does I/O."""
