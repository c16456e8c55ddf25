"""Coordinate workers on several machines, in a schema of their own.

Guarantee: workers share one set of terms, and see which workers live.

Tests: tests/integration/test_cluster.py
"""
