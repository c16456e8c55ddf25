"""The settings: the environment and its files."""
