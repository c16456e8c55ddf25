"""Authenticate programs by API keys, and users by sessions; audit their actions.

The audit is the record of each action of a user or program.

Guarantee: an ended key or session does not give access, and a form takes effect once.

Tests: tests/server/test_api_keys.py
"""
