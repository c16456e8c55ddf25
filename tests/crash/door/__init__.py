"""Real usage sent over HTTP by clients that are killed, to a server that is killed, over connections that are cut."""
