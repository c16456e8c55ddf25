"""Change and list terms, pauses, rates and policies of providers.

It also changes and lists costs at vendors. It has the list of providers in shadow, and the comparison of vendors' bills
with usage.

Guarantee: only a person pauses or resumes a provider, or accepts its new terms.

Tests: tests/integration/test_providers.py
"""
