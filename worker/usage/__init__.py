"""List, withdraw, backfill, quarantine, prune and fold usage.

Guarantee: a correction reverses exactly the usage that was billed.

Tests: tests/integration/test_corrections.py
"""
