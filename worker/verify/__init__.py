"""Proves the invariants on any database. Shares nothing but `schema` with the rest.

Guarantee: the invariants are proven with separate SQL.

Tests: tests/integration/test_verify.py
"""
