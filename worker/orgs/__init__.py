"""Register, assign, move, halt and list organisations.

Guarantee: an organisation has one provider at a time, and a flip does not bill usage twice.

Tests: tests/integration/test_overrides.py
"""
