"""Seals a past range again and sends the pushes that come out.

Guarantee: a past range is sealed again, and not billed twice.

Tests: tests/integration/test_replay.py
"""
