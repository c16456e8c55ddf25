"""Sources of usage: events, samples and files of samples.

Guarantee: a repeated item is one sample.

Tests: tests/integration/test_import.py
"""
