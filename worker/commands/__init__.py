"""All that a person changes."""
