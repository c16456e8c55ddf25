"""The guard decides whether an organisation may use a quantity of a metric now.

Holds its checks, uses, counters, terms, overrides and pages.

Guarantee: a use is allowed and counted once for each key.

Tests: tests/integration/test_guard.py
"""
