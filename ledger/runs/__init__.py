"""Runs: what they hold, draw and end with."""
