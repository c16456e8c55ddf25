"""Copies the provider's verdict onto the organisation.

Guarantee: the provider's verdict is copied, and never goes back in time.

Tests: tests/integration/test_watch.py, tests/unit/test_decide.py
"""
