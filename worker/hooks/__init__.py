"""Tells the operator's product what happened: sends the messages that lie in the outbox to its endpoints.

Guarantee: a message is due until it is accepted, or its schedule ends.

Tests: tests/integration/test_hooks.py
"""
