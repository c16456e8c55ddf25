"""Queue jobs, which take longer than a request, and do them in ticks.

Guarantee: a tick does queued jobs, and a job ends once.

Tests: tests/integration/test_jobs.py
"""
