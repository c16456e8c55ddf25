"""Batches: files of usage that are added up once, as they arrive.

Guarantee: a file is taken once, whole or not at all.

Tests: tests/integration/test_batches.py
"""
