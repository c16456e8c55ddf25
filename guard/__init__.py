"""The guard's rules: what may be done now, and why not. Nothing here reads or writes anything."""
