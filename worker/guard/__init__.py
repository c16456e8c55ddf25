"""Decide whether an organisation may use a quantity of a metric now.

The package has the guard's checks, uses, counters, terms, limit overrides and lists.

Guarantee: for each key, the guard decides and counts a use once.

Tests: tests/integration/test_guard.py
"""
