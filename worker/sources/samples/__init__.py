"""Store and import samples."""
