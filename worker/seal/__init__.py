"""Writes the owed quantities as immutable pushes and advances the watermark."""
