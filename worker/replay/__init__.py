"""Seal a past range again, and send the resulting pushes.

Guarantee: usage that was billed before is not billed again.

Tests: tests/integration/test_replay.py
"""
