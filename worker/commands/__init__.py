"""The commands: every change that a person makes."""
