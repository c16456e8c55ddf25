"""API keys of programs, and users of the console with sessions and an audit.

The audit has the actions of users and programs.

Guarantee: an ended key or session does not give access, and a form acts once.

Tests: tests/server/test_api_keys.py
"""
