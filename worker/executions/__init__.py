"""Preview, accept, charge, extend, settle and release executions on credit.

An accepted execution has a reservation.

Guarantee: an execution is accepted only with its reservation, and a reservation ends once.

Tests: tests/integration/test_remote_runs.py
"""
