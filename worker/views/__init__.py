"""The views: everything that a person or a program reads. Nothing here writes."""
