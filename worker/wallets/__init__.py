"""The wallets of the embedded ledger, as people and programs use them: grants, lots, pools, tiers, statements."""
