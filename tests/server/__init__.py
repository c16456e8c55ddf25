"""The HTTP server: who may say what, and what it answers."""
