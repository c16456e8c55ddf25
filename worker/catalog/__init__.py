"""The terms of billing: features and their units, the terms of providers, and wallets.

Guarantee: all machines bill by the same features, units and terms.

Tests: tests/unit/test_mapping.py
"""
