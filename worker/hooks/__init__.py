"""Webhooks send messages of the outbox to the endpoints of the operator's product.

Guarantee: a message is due until it is accepted, or its schedule ends.

Tests: tests/integration/test_hooks.py
"""
