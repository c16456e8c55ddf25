"""Usage events: their shape, and what may leave of them. Nothing here reads or writes anything."""
