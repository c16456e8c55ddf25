"""Automatic top-ups: a wallet that runs low is filled, once for each gap, and what was paid is credited once.

Guarantee: a low wallet is charged for once, and credited once.

Tests: tests/integration/test_topups.py, tests/integration/test_topup_lives.py
"""
