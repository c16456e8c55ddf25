"""Providers as people set them: terms, pauses, rates, vendors' bills and shadows."""
