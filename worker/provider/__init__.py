"""Settings of providers by people.

They are terms, pauses, rates, bills of vendors, and shadows.

Guarantee: only a person pauses or resumes a provider, or accepts its new terms.

Tests: tests/integration/test_providers.py
"""
