"""The HTTP routes for programs."""
