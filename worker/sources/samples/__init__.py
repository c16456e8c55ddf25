"""Samples from files into the database."""
