"""The engine: the effects that steps yield, and the runner that does them.

Guarantee: a step decides; only the engine acts.

Tests: tests/unit/test_calls.py
"""
