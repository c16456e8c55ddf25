"""Which database this is, and what of its history was lost (rule R1)."""
