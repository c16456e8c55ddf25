"""Send due pushes to their providers and record each outcome.

Guarantee: only committed pushes are sent, and an unknown outcome is looked up.

Tests: tests/integration/test_providers.py
"""
