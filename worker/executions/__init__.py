"""Executions on credit: previewed, accepted with a reservation, charged, extended, settled or released.

Guarantee: an execution starts with its credit reserved. Its reservation ends once.

Tests: tests/integration/test_remote_runs.py
"""
