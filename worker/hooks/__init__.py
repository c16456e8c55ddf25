"""Send messages of the outbox to the webhook endpoints of the operator's product.

Guarantee: a message is due until its endpoint accepts it, its schedule ends, or a person ends the endpoint.

Tests: tests/integration/test_hooks.py
"""
