"""Queue jobs, which take longer than a request, and run them in ticks.

Guarantee: a tick does queued work; a job ends once.

Tests: tests/integration/test_jobs.py
"""
