"""Store usage events, each with the sample by which it is billed."""
