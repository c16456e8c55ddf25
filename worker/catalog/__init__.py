"""The terms of billing: features and their units, providers' terms, wallets.

Guarantee: the features, units and terms that are billed.

Tests: tests/unit/test_mapping.py
"""
