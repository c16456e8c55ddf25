"""The billing providers: one protocol, one file per provider."""
