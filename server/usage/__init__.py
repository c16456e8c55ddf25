"""The routes through which programs send and read usage."""
