"""The terms of billing: features and their units, providers' terms, wallets."""
