"""Sends what is due to its provider and writes down what became of it."""
