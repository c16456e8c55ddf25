"""Jobs: work that takes longer than a request is queued, and done by a tick.

Guarantee: a tick does queued work; a job ends once.

Tests: tests/integration/test_jobs.py
"""
