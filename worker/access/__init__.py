"""Keys of programs, people of the console, their sessions, and the audit of what they did.

Guarantee: an ended key or session opens nothing, and a form acts once.

Tests: tests/server/test_api_keys.py
"""
