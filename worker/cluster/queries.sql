-- The tables of the job engine and of the workers. Only `drawdown worker` uses them, only on PostgreSQL.

-- name: make_schema
-- The engine's tables are in a separate schema, so that Drawdown's statements cannot name them by accident.
CREATE SCHEMA IF NOT EXISTS drawdown_cluster;
CREATE TABLE IF NOT EXISTS drawdown_cluster.migrations (name text PRIMARY KEY)

-- name: go_there
-- The engine names its tables without a schema. This setting ends with the transaction.
SET LOCAL search_path TO drawdown_cluster

-- name: one_at_a_time
-- A process that creates or upgrades Drawdown's own schema holds the same lock.
SELECT pg_advisory_xact_lock(:key)

-- name: is_there [postgresql]
-- A row if the schema exists and may be read.
SELECT 1 AS there FROM pg_namespace
WHERE nspname = 'drawdown_cluster' AND has_schema_privilege(oid, 'USAGE') AND to_regclass('drawdown_cluster.workers') IS NOT NULL

-- name: is_there [sqlite]
SELECT 1 AS there WHERE false

-- name: answers
-- The server process that answers. Behind a pooler, it can differ from the process that accepted the connection.
SELECT pg_backend_pid()

-- name: migrations
SELECT name FROM drawdown_cluster.migrations

-- name: note_migrations
INSERT INTO drawdown_cluster.migrations (name) SELECT name FROM {rows :names (name text)} AS given

-- name: own_1
-- `agreed` has one row with the terms of all workers, null before the first worker. `workers` has a row for each
-- worker. Times are the database's, so that workers do not need a common clock.
CREATE TABLE drawdown_cluster.agreed (id integer PRIMARY KEY CHECK (id = 1), terms jsonb);
INSERT INTO drawdown_cluster.agreed (id) VALUES (1);
CREATE TABLE drawdown_cluster.workers (
    name text PRIMARY KEY,
    version text NOT NULL,
    began timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended timestamptz,
    done bigint NOT NULL DEFAULT 0,
    failed_at timestamptz,
    failure text
)

-- name: hold_agreed
-- Workers that register at the same time wait for each other. Otherwise two first workers could set different terms.
SELECT CAST(terms AS text) FROM drawdown_cluster.agreed WHERE id = 1 FOR UPDATE

-- name: others
-- The other living workers.
SELECT name FROM drawdown_cluster.workers
WHERE name <> :name AND ended IS NULL AND seen > clock_timestamp() - make_interval(secs => :lives_s) ORDER BY began, name

-- name: agree
UPDATE drawdown_cluster.agreed SET terms = CAST(:terms AS jsonb) WHERE id = 1 AND terms IS DISTINCT FROM CAST(:terms AS jsonb)

-- name: note_worker
-- A worker that counted as dead may register again.
INSERT INTO drawdown_cluster.workers (name, version) VALUES (:name, :version)
ON CONFLICT (name) DO UPDATE SET seen = clock_timestamp(), ended = NULL

-- name: forget_gone
-- Rows of workers that died a day ago.
DELETE FROM drawdown_cluster.workers WHERE seen < clock_timestamp() - make_interval(secs => :kept_s)

-- name: note_done
UPDATE drawdown_cluster.workers SET done = done + 1 WHERE name = :name

-- name: note_failed
UPDATE drawdown_cluster.workers SET failed_at = clock_timestamp(), failure = :failure WHERE name = :name

-- name: leave
UPDATE drawdown_cluster.workers SET seen = clock_timestamp(), ended = clock_timestamp() WHERE name = :name

-- name: forget_schedules
-- Schedules of shards that no longer exist.
DELETE FROM drawdown_cluster.procrastinate_periodic_defers
WHERE job_id IS NULL AND defer_timestamp < extract(epoch FROM clock_timestamp()) - :kept_s
