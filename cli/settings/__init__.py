"""What the environment and its files say."""
