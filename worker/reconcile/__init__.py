"""Compares what was accepted with what the provider says it charged (rule R2)."""
