"""How people call it: the command line and the composition root."""
