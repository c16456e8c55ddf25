"""Checks that are made again and again: what they find is kept, for metrics and alerts.

Guarantee: the latest result of each recurring check.

Tests: tests/integration/test_checks.py
"""
