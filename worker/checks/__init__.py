"""Checks that are made again and again: what they find is kept, for metrics and alerts."""
