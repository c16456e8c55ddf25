"""The state of everything: what waits, since when, and what to do; the figures behind the metrics.

Guarantee: one function reads the state of all steps.

Tests: tests/integration/test_status.py
"""
