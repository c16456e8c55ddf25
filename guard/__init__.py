"""The guard's rules, which decide whether a use is allowed now, and why. Pure."""
