"""Organisations: registered, assigned to a provider, moved to another, halted and listed.

Guarantee: an organisation has one provider at a time; a flip bills once.

Tests: tests/integration/test_overrides.py
"""
