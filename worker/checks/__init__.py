"""Run recurring checks, and store their results for metrics and alerts.

Guarantee: the latest result of each recurring check is stored.

Tests: tests/integration/test_checks.py
"""
