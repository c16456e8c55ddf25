"""Sends due pushes to their providers and records each outcome.

Guarantee: only committed pushes are sent; an unknown outcome is looked up.

Tests: tests/integration/test_providers.py
"""
