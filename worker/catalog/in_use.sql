-- Features that organisations use now.

-- name: in_use
WITH picked AS MATERIALIZED (SELECT r.org_id FROM {rows :orgs (org_id text)} r),
segments (lo, hi, start_ms, end_ms, feature) AS (SELECT lo, hi, start_ms, end_ms, feature
    FROM {rows :segments (lo bigint, hi bigint, start_ms bigint, end_ms bigint, feature text, unit text)} r),
used AS MATERIALIZED (
    SELECT DISTINCT p.org_id, s.memory_mb, s.ts - s.ts % {window_length_ms} AS window_ms
    FROM picked p {look_up} usage_samples s {looked_up_by} s.org_id = p.org_id AND s.ts >= :from_ms {end_look_s}
    WHERE s.problem IS NULL
    UNION
    SELECT p.org_id, b.memory_mb, :window_ms FROM picked p {each_then} sandboxes b ON b.org_id = p.org_id
        AND b.state = 'running' AND b.memory_mb BETWEEN 0 AND {most_memory_mb}
)
SELECT DISTINCT u.org_id, g.feature FROM used u JOIN segments g ON {in_segment} AND u.window_ms >= g.start_ms
    AND u.window_ms < g.end_ms
