"""What comes round each calendar month: credit that plans include, and tiers that are paid for."""
