"""Fill low wallets automatically, by charges at a payment service.

Guarantee: a gap is charged once, and a paid charge is credited once.

Tests: tests/integration/test_topups.py, tests/integration/test_topup_lives.py
"""
