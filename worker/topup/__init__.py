"""Automatic top-ups: a low wallet is filled by a charge at a payment service, once for each gap.

Guarantee: a gap is charged once, and a paid charge is credited once.

Tests: tests/integration/test_topups.py, tests/integration/test_topup_lives.py
"""
