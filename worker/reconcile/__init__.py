"""Compare accepted pushes with the charges that the provider reports (rule R2).

Guarantee: Drawdown compares each accepted push with the provider's charges once the provider's lag is over.

Tests: tests/integration/test_reconcile.py
"""
