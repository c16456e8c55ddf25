"""Lives of the door: programs that send events and samples, and ask the guard, over HTTP in this process."""
