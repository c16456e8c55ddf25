"""The interface for people: the command line and the composition root."""
