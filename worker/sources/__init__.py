"""Store usage from its sources: events, samples and files of samples.

Guarantee: a repeated item is stored as one sample.

Tests: tests/integration/test_import.py
"""
