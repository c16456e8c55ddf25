"""Keys of programs, people of the console, their sessions, and the audit of what they did.

Guarantee: a key, a session or a form counts once, until it ends.

Tests: tests/server/test_api_keys.py
"""
