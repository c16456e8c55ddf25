"""Executions on credit: previewed, accepted with a hold, drawn on, extended, settled or released."""
