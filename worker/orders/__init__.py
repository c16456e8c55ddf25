"""What takes longer than a request is ordered, and done by a tick."""
