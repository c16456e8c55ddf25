"""Automatic top-ups: a wallet that runs low is filled, once for each gap, and what was paid is credited once."""
