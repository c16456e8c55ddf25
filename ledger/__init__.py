"""The embedded prepaid ledger: accounts, entries and the rate card."""
