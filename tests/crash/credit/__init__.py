"""Runs on credit and top-ups by real processes that are killed."""
