"""Declare the actions and lists of the embedded ledger's wallets.

The actions and lists are of grants, lots, pools, tiers and statements.

Guarantee: each change of credit is an entry with actor and reason.

Tests: tests/integration/test_ledger.py
"""
