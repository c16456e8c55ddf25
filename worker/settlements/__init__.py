"""Suppliers' credit: settlements, freezes, reversals and payout files."""
