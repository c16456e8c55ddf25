"""The guard decides whether an organisation may use a quantity of a metric now.

The package has its checks, uses, counters, terms, limit overrides and lists.

Guarantee: a use is allowed and counted once for each key.

Tests: tests/integration/test_guard.py
"""
