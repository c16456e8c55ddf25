"""Where usage comes from.

Guarantee: the sources of usage.

Tests: tests/integration/test_import.py
"""
