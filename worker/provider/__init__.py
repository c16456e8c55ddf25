"""Change and list terms, pauses, rates and policies of providers.

This package also changes and lists costs at vendors, lists providers in shadow, and compares vendors' bills with usage.

Guarantee: only a person pauses or resumes a provider, or accepts its new terms.

Tests: tests/integration/test_providers.py
"""
