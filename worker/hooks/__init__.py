"""Tells the operator's product what happened: sends the messages that lie in the outbox to its endpoints."""
