"""Seal a past range again, and send the resulting pushes.

Guarantee: a past range is sealed again, and not billed twice.

Tests: tests/integration/test_replay.py
"""
