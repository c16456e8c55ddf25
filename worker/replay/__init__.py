"""Seals a past range again and sends the pushes that come out."""
