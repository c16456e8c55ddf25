-- The parts of the schema that only SQLite has. An empty line separates statements.
-- `create.py` fills in `columns`: the columns of a sample that a host writes, except its id. `content`: their names and
-- new values. `same`: the comparison of a stored sample with a new one.

CREATE TABLE usage_samples (
    -- Without AUTOINCREMENT, SQLite would use a rowid again after a delete, and no seal would find that sample (S2).
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    {columns},
    ingested_at BIGINT DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)),
    problem TEXT GENERATED ALWAYS AS (CASE
        WHEN typeof(id) <> 'text' OR length(id) NOT BETWEEN 1 AND 200 OR instr(id, char(0)) > 0
          OR id GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || char(65533) || ']*' THEN 'bad_id'
        WHEN typeof(org_id) <> 'text' OR length(org_id) NOT BETWEEN 1 AND 200 OR instr(org_id, char(0)) > 0
          OR org_id GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || char(65533) || ']*' THEN 'bad_org_id'
        WHEN typeof(sandbox_id) <> 'text' OR length(sandbox_id) NOT BETWEEN 1 AND 200 OR instr(sandbox_id, char(0)) > 0
          OR sandbox_id GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || char(65533) || ']*' THEN 'bad_sandbox_id'
        WHEN typeof(cell_id) <> 'text' OR length(cell_id) NOT BETWEEN 1 AND 200 OR instr(cell_id, char(0)) > 0
          OR cell_id GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || char(65533) || ']*' THEN 'bad_cell_id'
        WHEN memory_mb IS NULL THEN 'memory_missing'
        WHEN typeof(memory_mb) <> 'integer' OR (
          memory_mb NOT BETWEEN 0 AND 16777216
          AND NOT (memory_mb BETWEEN 16777217 AND 17777216 AND cell_id IN ('events', 'runs'))
        ) THEN 'memory_out_of_bounds'
        WHEN interval_s IS NULL THEN 'interval_missing'
        WHEN typeof(interval_s) NOT IN ('integer', 'real') THEN 'interval_not_a_number'
        WHEN interval_s < 0 THEN 'interval_negative'
        WHEN interval_s > CASE WHEN memory_mb > 16777216 THEN 1000000000000 ELSE 86400 END THEN 'interval_over_a_day'
        WHEN typeof(interval_s) = 'real' THEN 'interval_fractional'
        WHEN ts IS NULL THEN 'ts_missing'
        WHEN typeof(ts) <> 'integer' THEN 'ts_not_milliseconds'
        WHEN ts < 946684800000 THEN 'ts_before_2000'
        WHEN ts > ingested_at + 300000 THEN 'ts_in_the_future'
        WHEN ts >= 4102444800000 THEN 'ts_not_milliseconds'
    END) STORED
);

CREATE INDEX usage_samples_by_org_ts ON usage_samples (org_id, ts);

CREATE INDEX usage_samples_problems ON usage_samples (problem) WHERE problem IS NOT NULL;

CREATE INDEX usage_samples_by_ts ON usage_samples (ts);

-- Show each entry as two lines that sum to zero.
CREATE VIEW ledger_lines AS
SELECT key AS entry_key, from_account AS account_id, -amount_micro AS amount_micro FROM ledger_entries
UNION ALL
SELECT key, to_account, amount_micro FROM ledger_entries;

CREATE TRIGGER samples_arrive_now BEFORE INSERT ON usage_samples
FOR EACH ROW WHEN NEW.arrival <> -1
BEGIN
    SELECT RAISE(ABORT, 'cannot set arrival of a sample: the database sets it (S2)');
END;

-- SQLite numbers a sample only after its BEFORE triggers.
CREATE TRIGGER samples_arrive_now_after AFTER INSERT ON usage_samples
FOR EACH ROW WHEN NEW.arrival < 1
BEGIN
    SELECT RAISE(ABORT, 'cannot set arrival of a sample: the database sets it (S2)');
END;

CREATE TRIGGER samples_ids_reserved BEFORE INSERT ON usage_samples
FOR EACH ROW WHEN (
    (NEW.id >= 'event:' AND NEW.id < 'event;')
    OR (NEW.id >= 'run:' AND NEW.id < 'run;')
    OR (NEW.id >= 'batch:' AND NEW.id < 'batch;')
) AND COALESCE(NEW.cell_id NOT IN ('events', 'runs'), TRUE)
BEGIN
    SELECT RAISE(ABORT, 'cannot insert a sample: an id that begins with event:, run: or batch: is reserved (S7). Choose another id');
END;

CREATE TRIGGER samples_floor_first BEFORE DELETE ON usage_samples
FOR EACH ROW WHEN OLD.ts IS NULL OR OLD.ts >= COALESCE((SELECT floor_ms FROM orgs WHERE org_id = OLD.org_id), 0)
BEGIN
    SELECT RAISE(ABORT, 'cannot delete a sample that is not below its organisation''s floor (S4)');
END;

CREATE TRIGGER events_go_with_samples AFTER DELETE ON usage_samples
FOR EACH ROW WHEN (OLD.memory_mb > 16777216)
BEGIN
    DELETE FROM usage_events WHERE sample_id = OLD.id;
END;

CREATE TRIGGER pushes_kept BEFORE DELETE ON pushes
FOR EACH ROW WHEN OLD.window_ms >= COALESCE((SELECT floor_ms FROM orgs WHERE org_id = OLD.org_id), 0) OR NOT EXISTS (
    SELECT 1 FROM folded_pushes f
    WHERE f.day_ms = OLD.window_ms - OLD.window_ms % 86400000 AND f.org_id = OLD.org_id AND f.provider = OLD.provider
        AND f.customer_id = OLD.customer_id AND f.feature = OLD.feature AND f.state = OLD.state
)
BEGIN
    SELECT RAISE(ABORT, 'cannot delete a push that is not folded and below its organisation''s floor (S3)');
END;

CREATE TRIGGER attempts_kept BEFORE DELETE ON attempts
FOR EACH ROW WHEN OLD.window_ms >= COALESCE((SELECT floor_ms FROM orgs WHERE org_id = OLD.org_id), 0)
BEGIN
    SELECT RAISE(ABORT, 'cannot delete an attempt that is not below its organisation''s floor (P1)');
END;

-- The database itself makes a halt due, for each cell with a sandbox that is not stopped.
CREATE TRIGGER halts_on_org AFTER UPDATE OF is_halted, halted_at ON orgs
FOR EACH ROW BEGIN
    INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms)
        SELECT DISTINCT s.org_id, s.cell_id, NEW.halted_at, NEW.halted_at FROM sandboxes s
        WHERE s.org_id = NEW.org_id AND s.state <> 'stopped' AND NEW.is_halted
        ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER halts_on_org_new AFTER INSERT ON orgs
FOR EACH ROW BEGIN
    INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms)
        SELECT DISTINCT s.org_id, s.cell_id, NEW.halted_at, NEW.halted_at FROM sandboxes s
        WHERE s.org_id = NEW.org_id AND s.state <> 'stopped' AND NEW.is_halted
        ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER halts_on_sandbox AFTER UPDATE ON sandboxes
FOR EACH ROW BEGIN
    INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms)
        SELECT o.org_id, NEW.cell_id, o.halted_at, o.halted_at FROM orgs o
        WHERE o.org_id = NEW.org_id AND o.is_halted AND NEW.state <> 'stopped'
        ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER halts_on_sandbox_new AFTER INSERT ON sandboxes
FOR EACH ROW BEGIN
    INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms)
        SELECT o.org_id, NEW.cell_id, o.halted_at, o.halted_at FROM orgs o
        WHERE o.org_id = NEW.org_id AND o.is_halted AND NEW.state <> 'stopped'
        ON CONFLICT DO NOTHING;
END;

-- A host's `INSERT OR REPLACE` deletes a row without calling a guard. The first sample stays, and `sample_conflicts`
-- gets the differing content of the second (S7). In a trigger, `OR IGNORE` would become the statement's `OR REPLACE`,
-- hence NOT EXISTS.
CREATE TRIGGER samples_once BEFORE INSERT ON usage_samples
FOR EACH ROW WHEN EXISTS (SELECT 1 FROM usage_samples WHERE id = NEW.id)
BEGIN
    INSERT INTO sample_conflicts (sample_id, source, content, seen_ms)
        SELECT NEW.id, 'INSERT', said.content, CASE typeof(NEW.ingested_at)
            WHEN 'integer' THEN NEW.ingested_at ELSE CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER) END
        FROM (SELECT json_object(
            {content}
        ) AS content) said
        WHERE NOT EXISTS (
            SELECT 1 FROM usage_samples WHERE {same}
        ) AND NOT EXISTS (SELECT 1 FROM sample_conflicts c WHERE c.sample_id = NEW.id AND c.content = said.content);
    SELECT RAISE(IGNORE);
END;
