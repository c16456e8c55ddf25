"""Seals a past range again and sends what comes out."""
