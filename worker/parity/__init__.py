"""Compare cells' own counts of usage with the samples received from them.

Guarantee: an unknown count is not zero.

Tests: tests/integration/test_parity.py
"""
