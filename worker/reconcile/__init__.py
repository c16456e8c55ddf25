"""Compares accepted pushes with the charges that the provider reports (rule R2)."""
