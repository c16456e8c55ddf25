"""The command line for people, and the composition root."""
