"""Copies the provider's verdict onto the organisation."""
