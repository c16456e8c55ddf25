"""Send messages of the outbox to the webhook endpoints of the operator's product.

Guarantee: a message is due until its endpoint accepts it, or its schedule ends.

Tests: tests/integration/test_hooks.py
"""
