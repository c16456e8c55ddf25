"""The identity of the database, and the losses of its history (rule R1)."""
