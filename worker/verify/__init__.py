"""Proves the nine invariants on any database. Shares nothing but `schema` with the rest."""
