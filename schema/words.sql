-- What many statements say, once. Every `.sql` file may use these pieces.

-- name: open_states
-- States of a push that is not decided: its quantity may still be sent, or a person has to say what became of it.
('due', 'queued', 'in_doubt', 'rejected')

-- name: unbilled
-- Values of a provider that stand for nobody: usage is kept and billed by nobody here.
('legacy', 'none')

-- name: window_length_ms
300000

-- name: is_of_push
-- `p` is a push, or what is asked about one; `x` is whatever else names it by the primary key of a push: an attempt, an
-- adoption, a void, a row of values.
x.window_ms = p.window_ms AND x.org_id = p.org_id AND x.feature = p.feature AND x.revision = p.revision

-- name: this_push
-- The one push whose primary key is bound.
window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND revision = :revision

-- name: arrivals
-- How many attempts of the push `p` may have arrived, if one of them may have charged. What was refused may be on
-- record there, and stand for what a later attempt charged.
(SELECT CASE WHEN SUM(CASE WHEN x.outcome = 'rejected' THEN 0 ELSE 1 END) > 0 THEN COUNT(*) ELSE 0 END
    FROM attempts x WHERE {is_of_push}
    AND (x.outcome IS NULL OR x.outcome IN ('unknown', 'queued', 'accepted', 'rejected')))
