"""Proves the invariants on any database. Shares nothing but `schema` with the rest."""
