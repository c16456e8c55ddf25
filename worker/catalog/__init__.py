"""The terms of billing: features, units, wallets and the terms of providers.

Guarantee: all machines use the same features, units and terms for billing.

Tests: tests/unit/test_mapping.py
"""
