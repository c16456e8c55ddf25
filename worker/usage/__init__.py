"""Usage after its arrival.

List, withdraw, backfill, quarantine, prune and fold it.

Guarantee: a correction reverses exactly the billed usage.

Tests: tests/integration/test_corrections.py
"""
