"""Parity: cells' own counts of usage, beside the samples received from them.

Guarantee: cells' counts are compared with usage; unknown is not zero.

Tests: tests/integration/test_parity.py
"""
