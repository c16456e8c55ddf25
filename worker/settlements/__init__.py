"""The credit of suppliers: settlements, freezes, reversals and payout files.

Guarantee: a supplier is paid once for each settlement.

Tests: tests/integration/test_settlements.py
"""
