"""Prove the invariants on any database.

This package shares only `schema` with the rest of Drawdown.

Guarantee: the SQL that proves the invariants is separate from the SQL of the tick.

Tests: tests/integration/test_verify.py
"""
