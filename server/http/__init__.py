"""How a request is read, bounded and answered."""
