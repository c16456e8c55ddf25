"""The routes for usage: programs send it, and read it."""
