"""The routes that programs may call."""
