"""Organisations: registered, assigned to a provider, moved to another, halted and listed."""
