"""Usage after its arrival: lists, withdrawals, backfills, quarantine, pruning and folding.

Guarantee: a correction reverses exactly the billed usage.

Tests: tests/integration/test_corrections.py
"""
