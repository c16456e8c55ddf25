"""Sends due pushes to their providers and records each outcome."""
