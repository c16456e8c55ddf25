"""The wallets of the embedded ledger, as people and programs use them: grants, lots, pools, tiers, statements.

Guarantee: each change of credit is an entry with actor and reason.

Tests: tests/integration/test_ledger.py
"""
