"""The guard: may so much of a metric be used now? Its questions, counters, terms, overrides and pages.

Guarantee: a use is allowed and counted once for each key.

Tests: tests/integration/test_guard.py
"""
