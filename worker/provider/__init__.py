"""Providers as people set them: terms, pauses, rates, vendors' bills and shadows.

Guarantee: a person pauses, resumes and accepts a provider.

Tests: tests/integration/test_providers.py
"""
