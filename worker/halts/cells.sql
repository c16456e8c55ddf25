-- Cells: their URLs, and the rows that still need them.

-- name: needed
SELECT (SELECT COUNT(*) FROM sandboxes s WHERE s.cell_id = :cell_id AND s.state <> 'stopped') AS sandboxes,
    (SELECT COUNT(*) FROM halts h WHERE h.cell_id = :cell_id AND h.due_at_ms IS NOT NULL) AS halts

-- name: set_cell
INSERT INTO cells (cell_id, url) VALUES (:cell_id, :url) ON CONFLICT (cell_id) DO UPDATE SET url = :url

-- name: delete_cell
DELETE FROM cells WHERE cell_id = :cell_id

-- name: url
SELECT url FROM cells WHERE cell_id = :cell_id
