"""Sends halts to the cells that run a halted organisation's sandboxes."""
