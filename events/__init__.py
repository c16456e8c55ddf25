"""The shape of usage events, and the check of reports about them, as pure code."""
