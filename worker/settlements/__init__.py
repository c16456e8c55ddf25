"""What suppliers are owed and paid: settlements, freezes, reversals and payout files."""
