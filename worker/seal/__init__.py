"""Writes what is owed as immutable pushes and advances the watermark."""
