"""Define the effects that steps yield, and run them.

Guarantee: a step only decides, and only the engine acts.

Tests: tests/unit/test_calls.py
"""
