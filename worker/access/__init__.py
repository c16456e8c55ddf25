"""API keys of programs, users of the console, their sessions, and the audit of their actions.

Guarantee: an ended key or session does not give access, and a form acts once.

Tests: tests/server/test_api_keys.py
"""
