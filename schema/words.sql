-- What many statements say, once. Every `.sql` file may use these pieces.

-- name: open_states
-- States of a push that is not decided: its quantity may still be sent, or a person has to say what became of it.
('due', 'queued', 'in_doubt', 'rejected')

-- name: unbilled
-- Values of a provider that stand for nobody: usage is kept and billed by nobody here.
('legacy', 'none')

-- name: window_length_ms
300000

-- name: insert_dirty_windows
-- `windows`: what follows FROM, with a WHERE.
INSERT INTO dirty_windows (org_id, window_ms) SELECT DISTINCT org_id, window_ms FROM {windows} ON CONFLICT DO NOTHING
