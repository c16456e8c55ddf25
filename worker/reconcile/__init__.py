"""Compares accepted pushes with the charges that the provider reports (rule R2).

Guarantee: accepted pushes are compared with charges.

Tests: tests/integration/test_reconcile.py
"""
