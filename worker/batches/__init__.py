"""Take batches, which are files of usage, and add up each batch once.

Guarantee: Drawdown takes a file once, and takes all of its valid rows or none.

Tests: tests/integration/test_batches.py
"""
