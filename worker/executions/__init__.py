"""Executions on credit: previewed, accepted, charged, extended, settled, released.

An accepted execution has a reservation.

Guarantee: an execution starts with its credit reserved. Its reservation ends once.

Tests: tests/integration/test_remote_runs.py
"""
