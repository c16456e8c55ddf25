"""Readers of values that people type."""
