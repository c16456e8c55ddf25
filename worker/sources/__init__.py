"""Where usage comes from.

Guarantee: a repeated item is one sample.

Tests: tests/integration/test_import.py
"""
