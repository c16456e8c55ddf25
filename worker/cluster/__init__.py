"""Many machines: who takes part, and the schema that the engine and its workers keep to themselves.

Guarantee: workers share one set of terms, and see who is alive.

Tests: tests/integration/test_cluster.py
"""
