"""Write the owed quantities as immutable pushes, and advance the watermark.

Guarantee: unbilled usage becomes one immutable push.

Tests: tests/integration/test_interleavings.py, tests/stateful
"""
