"""The storage and import of samples."""
