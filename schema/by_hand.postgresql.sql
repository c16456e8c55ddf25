-- The parts of the schema that only PostgreSQL has. An empty line separates statements.
-- `create.py` fills in `columns`: the columns of a sample that a host writes, except its id.

CREATE TABLE usage_samples (
    -- The inserting transaction's id, by which a seal finds the samples that it has not read (S2).
    arrival BIGINT DEFAULT pg_current_xact_id()::text::bigint NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    {columns},
    ingested_at BIGINT DEFAULT (EXTRACT(epoch FROM clock_timestamp()) * 1000)::bigint,
    problem TEXT GENERATED ALWAYS AS (CASE
        WHEN id IS NULL OR length(id) < 1 OR length(id) > 200 OR id ~ '[\u0001-\u001f\u007f-\u009f\ufffd]'
            THEN 'bad_id'
        WHEN org_id IS NULL OR length(org_id) < 1 OR length(org_id) > 200 OR org_id ~ '[\u0001-\u001f\u007f-\u009f\ufffd]'
            THEN 'bad_org_id'
        WHEN sandbox_id IS NULL OR length(sandbox_id) < 1 OR length(sandbox_id) > 200 OR sandbox_id ~ '[\u0001-\u001f\u007f-\u009f\ufffd]'
            THEN 'bad_sandbox_id'
        WHEN cell_id IS NULL OR length(cell_id) < 1 OR length(cell_id) > 200 OR cell_id ~ '[\u0001-\u001f\u007f-\u009f\ufffd]'
            THEN 'bad_cell_id'
        WHEN memory_mb IS NULL THEN 'memory_missing'
        WHEN (memory_mb < 0 OR memory_mb > 16777216)
            AND NOT (memory_mb >= 16777217 AND memory_mb <= 17777216 AND cell_id IN ('events', 'runs'))
            THEN 'memory_out_of_bounds'
        WHEN interval_s IS NULL THEN 'interval_missing'
        WHEN interval_s = 'NaN' THEN 'interval_not_a_number'
        WHEN interval_s < 0 THEN 'interval_negative'
        WHEN interval_s > CASE WHEN memory_mb > 16777216 THEN 1000000000000 ELSE 86400 END THEN 'interval_over_a_day'
        WHEN interval_s <> trunc(interval_s) THEN 'interval_fractional'
        WHEN ts IS NULL THEN 'ts_missing'
        WHEN ts < 946684800000 THEN 'ts_before_2000'
        WHEN ts > ingested_at + 300000 THEN 'ts_in_the_future'
        WHEN ts >= 4102444800000 THEN 'ts_not_milliseconds'
    END) STORED,
    PRIMARY KEY (id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02);

CREATE INDEX usage_samples_by_org_ts ON usage_samples (org_id, ts);

CREATE INDEX usage_samples_problems ON usage_samples (problem) WHERE problem IS NOT NULL;

CREATE INDEX usage_samples_by_arrival ON usage_samples USING brin (arrival) WITH (autosummarize = on);

CREATE INDEX usage_samples_by_ts ON usage_samples USING brin (ts) WITH (autosummarize = on);

-- Show each entry as two lines that sum to zero.
CREATE VIEW ledger_lines AS
SELECT key AS entry_key, from_account AS account_id, -amount_micro AS amount_micro FROM ledger_entries
UNION ALL
SELECT key, to_account, amount_micro FROM ledger_entries;

CREATE FUNCTION never_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'cannot truncate the table %', TG_TABLE_NAME USING ERRCODE = 'check_violation';
END $$;

CREATE FUNCTION samples_arrive_now() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'cannot set arrival of a sample: the database sets it (S2)' USING ERRCODE = 'check_violation';
END $$;

CREATE TRIGGER samples_arrive_now BEFORE INSERT ON usage_samples
FOR EACH ROW WHEN (NEW.arrival <> pg_current_xact_id()::text::bigint)
EXECUTE FUNCTION samples_arrive_now();

-- A host has no right to insert events, so it must not use an id that Drawdown makes itself.
CREATE FUNCTION samples_ids_reserved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'cannot insert a sample: an id that begins with event:, run: or batch: is reserved (S7). Choose another id' USING ERRCODE = 'check_violation';
END $$;

CREATE TRIGGER samples_ids_reserved BEFORE INSERT ON usage_samples
FOR EACH ROW WHEN (
    ((NEW.id >= 'event:' AND NEW.id < 'event;')
        OR (NEW.id >= 'run:' AND NEW.id < 'run;')
        OR (NEW.id >= 'batch:' AND NEW.id < 'batch;'))
    AND (COALESCE(NEW.cell_id NOT IN ('events', 'runs'), TRUE)
        OR NOT has_table_privilege('usage_events'::regclass, 'INSERT'))
)
EXECUTE FUNCTION samples_ids_reserved();

CREATE FUNCTION samples_without_meters() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.cell_id = 'a host, of ' || NEW.cell_id;
    RETURN NEW;
END $$;

-- Only events and executions use meters in place of memory sizes. If a host does, quarantine the sample.
CREATE TRIGGER samples_without_meters BEFORE INSERT ON usage_samples
FOR EACH ROW WHEN (
    NEW.memory_mb > 16777216 AND NEW.cell_id IN ('events', 'runs')
    AND NOT has_table_privilege('usage_events'::regclass, 'INSERT')
)
EXECUTE FUNCTION samples_without_meters();

CREATE FUNCTION events_go_with_samples() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    DELETE FROM usage_events WHERE sample_id = OLD.id;
    RETURN NULL;
END $$;

CREATE TRIGGER events_go_with_samples AFTER DELETE ON usage_samples
FOR EACH ROW WHEN (OLD.memory_mb > 16777216)
EXECUTE FUNCTION events_go_with_samples();

-- Check once for each statement, because one statement can delete many rows.
CREATE FUNCTION samples_floor_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM gone g LEFT JOIN orgs o ON o.org_id = g.org_id
        WHERE g.ts IS NULL OR g.ts >= COALESCE(o.floor_ms, 0)
    ) THEN
        RAISE EXCEPTION 'cannot delete a sample that is not below its organisation''s floor (S4)' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER samples_floor_first AFTER DELETE ON usage_samples
REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT EXECUTE FUNCTION samples_floor_first();

CREATE FUNCTION pushes_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM gone g LEFT JOIN orgs o ON o.org_id = g.org_id
        LEFT JOIN folded_pushes f ON f.day_ms = g.window_ms - g.window_ms % 86400000 AND f.org_id = g.org_id
            AND f.provider = g.provider AND f.customer_id = g.customer_id AND f.feature = g.feature AND f.state = g.state
        WHERE g.window_ms >= COALESCE(o.floor_ms, 0) OR f.org_id IS NULL
    ) THEN
        RAISE EXCEPTION 'cannot delete a push that is not folded and below its organisation''s floor (S3)' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER pushes_kept AFTER DELETE ON pushes
REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT EXECUTE FUNCTION pushes_kept();

CREATE FUNCTION attempts_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM gone g LEFT JOIN orgs o ON o.org_id = g.org_id WHERE g.window_ms >= COALESCE(o.floor_ms, 0)
    ) THEN
        RAISE EXCEPTION 'cannot delete an attempt that is not below its organisation''s floor (P1)' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER attempts_kept AFTER DELETE ON attempts
REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT EXECUTE FUNCTION attempts_kept();

-- The database itself makes a halt due, for each cell with a sandbox that is not stopped.
CREATE FUNCTION halts_on_org() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms)
        SELECT DISTINCT s.org_id, s.cell_id, NEW.halted_at, NEW.halted_at FROM sandboxes s
        WHERE s.org_id = NEW.org_id AND s.state <> 'stopped' AND NEW.is_halted
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER halts_on_org AFTER UPDATE OF is_halted, halted_at ON orgs
FOR EACH ROW WHEN (NEW.is_halted)
EXECUTE FUNCTION halts_on_org();

CREATE FUNCTION halts_on_org_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms)
        SELECT DISTINCT s.org_id, s.cell_id, NEW.halted_at, NEW.halted_at FROM sandboxes s
        WHERE s.org_id = NEW.org_id AND s.state <> 'stopped' AND NEW.is_halted
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER halts_on_org_new AFTER INSERT ON orgs
FOR EACH ROW WHEN (NEW.is_halted)
EXECUTE FUNCTION halts_on_org_new();

-- A host can write its sandboxes but not halts, so this function runs with the rights of the owner.
CREATE FUNCTION halts_on_sandbox() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms)
        SELECT o.org_id, NEW.cell_id, o.halted_at, o.halted_at FROM orgs o
        WHERE o.org_id = NEW.org_id AND o.is_halted AND NEW.state <> 'stopped'
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER halts_on_sandbox AFTER UPDATE ON sandboxes
FOR EACH ROW
EXECUTE FUNCTION halts_on_sandbox();

CREATE FUNCTION halts_on_sandbox_new() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms)
        SELECT o.org_id, NEW.cell_id, o.halted_at, o.halted_at FROM orgs o
        WHERE o.org_id = NEW.org_id AND o.is_halted AND NEW.state <> 'stopped'
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER halts_on_sandbox_new AFTER INSERT ON sandboxes
FOR EACH ROW
EXECUTE FUNCTION halts_on_sandbox_new();

REVOKE ALL ON FUNCTION events_go_with_samples(), halts_on_sandbox(), halts_on_sandbox_new() FROM PUBLIC;
