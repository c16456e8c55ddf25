"""Organisations.

Register, assign, move, halt and list them.

Guarantee: an organisation has one provider at a time; a flip bills once.

Tests: tests/integration/test_overrides.py
"""
