"""Coordinate workers on several machines, by tables in a separate schema.

Guarantee: all workers use one set of terms, and know which workers are alive.

Tests: tests/integration/test_cluster.py
"""
