"""Autumn."""
