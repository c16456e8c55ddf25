"""Write the owed quantities as immutable pushes, and advance the watermark.

Guarantee: the unbilled usage of an organisation, window and feature becomes one immutable push.

Tests: tests/integration/test_interleavings.py, tests/stateful
"""
