"""Executions on credit: previewed, accepted with a hold, drawn on, extended, settled or released.

Guarantee: an execution starts with its credit on hold; its holds end once.

Tests: tests/integration/test_remote_runs.py
"""
