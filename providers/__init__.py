"""Who bills: one protocol, one file per provider."""
