"""Keys of programs, people of the console, their sessions, and the audit of what they did."""
