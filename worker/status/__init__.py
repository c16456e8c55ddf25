"""Read the state of the whole system for `status`, and figures for metrics.

Guarantee: one function reads the state of all steps of a tick.

Tests: tests/integration/test_status.py
"""
