"""Writes the owed quantities as immutable pushes and advances the watermark.

Guarantee: unbilled usage becomes one immutable push.

Tests: tests/integration/test_interleavings.py, tests/stateful
"""
