"""Usage that programs send, and ask about."""
