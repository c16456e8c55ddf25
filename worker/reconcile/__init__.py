"""Compare accepted pushes with the charges that the provider reports (rule R2).

Guarantee: each accepted push is compared with the provider's charges once their lag is over.

Tests: tests/integration/test_reconcile.py
"""
