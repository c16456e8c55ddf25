"""Map samples and events to features, and list features.

Guarantee: a use is billed by the seal or charged by the guard, and never both.

Tests: tests/integration/test_in_place.py
"""
