"""Features, and the mapping from samples and events to features.

Guarantee: either the seal bills a use, or the guard charges it, and never both.

Tests: tests/integration/test_in_place.py
"""
