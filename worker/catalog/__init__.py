"""What is billed: in which unit, at which terms, from whose wallet."""
