"""Features, and the mapping that makes them of samples and events.

Guarantee: either the seal bills a use or the guard charges it.

Tests: tests/integration/test_in_place.py
"""
