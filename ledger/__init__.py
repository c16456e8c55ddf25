"""The embedded prepaid wallet: accounts, entries, rate card."""
