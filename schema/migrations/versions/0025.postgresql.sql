ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_kind,
    ADD CONSTRAINT ledger_entries_kind CHECK (kind IN ('usage', 'grant', 'run', 'expiry', 'tier'))
