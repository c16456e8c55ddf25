"""Parity: cells' own counts of usage, beside the samples received from them."""
