"""The terms of billing: features, units, wallets and the terms of providers.

Guarantee: all machines bill by the same features, units and terms.

Tests: tests/unit/test_mapping.py
"""
