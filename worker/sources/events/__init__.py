"""Usage events into the database, each with the sample by which it is billed."""
