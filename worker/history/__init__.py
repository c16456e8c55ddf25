"""The identity of the database, and the losses of its history (rule R1).

Guarantee: if a database was restored, all work on it stops.

Tests: tests/integration/test_lost.py
"""
