"""Parsers of values that people type."""
