"""The billing providers: one protocol, and a module or package for each provider."""
