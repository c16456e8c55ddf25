"""Send halts to the cells that run a halted organisation's sandboxes.

Guarantee: a halt is due until its cell has acknowledged it.

Tests: tests/integration/test_dispatch.py
"""
