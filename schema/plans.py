"""What brings each database to a good plan for the seal's statements; the statements themselves say nothing of it.

Guarantee: none of this changes what is sealed, only how soon.
"""

from typing import Final

# A sample without a problem has whole seconds, a day of them at most. PostgreSQL adds up integers, into a bigint, with
# a twentieth less work for the whole scan than numerics.
SECONDS: Final = {"postgresql": "s.interval_s::int", "sqlite": "s.interval_s"}

# Keeps PostgreSQL from counting the groups by how many moments differ: it would make a hash table ten times too large,
# and miss the cache for each sample (an eighth to a quarter of the scan, the more samples there are).
APART: Final = {"postgresql": "OFFSET 0", "sqlite": ""}

# SQLite groups by sorting, and a tick has one fresh window as a rule: not sorting by it is a quarter less work.
FRESH_ONE: Final = {"fresh_window": ":pack", "fresh_keys": "1, 3"}
FRESH_MANY: Final = {"fresh_window": "s.ts - s.ts % 300000", "fresh_keys": "1, 2, 3"}

# Without statistics the planner takes the work table for a tiny one and looks each row up by index.
KNOW_WORK: Final = {"postgresql": ("SET LOCAL default_statistics_target = 10", "ANALYZE seal_work"), "sqlite": ()}

# A table that was filled and never analysed: the planner takes `bucket BETWEEN 0 AND 255` for one row, and compares
# every group with every organisation (5 s for 20,000 of each, where it takes a tenth of one); of samples and pushes it
# reads all there ever were. So it is, too, where they were last looked at while they were empty.
UNKNOWN_TABLES: Final = """
SELECT t.name FROM (VALUES ('orgs', 'bucket'), ('assignments', 'start_ms'), ('usage_samples', 'ts'),
    ('pushes', 'window_ms')) t(name, attribute)
WHERE pg_relation_size(t.name\\:\\:regclass) > 0 AND NOT EXISTS (SELECT 1 FROM pg_stats s
    WHERE s.schemaname = current_schema() AND s.tablename = t.name AND s.attname = t.attribute)
"""

# SEAL's rows are best inserted in the primary key's order, and grouped by sorting they come in it: a fifth less work
# for the statement than grouping by hash, which the planner, expecting few groups, would take.
GROUP_BY_SORTING: Final = {
    "postgresql": ("SET LOCAL enable_hashagg = off", "SET LOCAL enable_hashagg TO DEFAULT"),
    "sqlite": (),
}

# From a few dirty windows to what lies in them. SQLite, which knows of no table how big it is, might begin with all
# pushes there ever were; of a cross join it keeps the order.
THEN: Final = {"postgresql": "JOIN", "sqlite": "CROSS JOIN"}

# Each of those few rows is looked up by the whole of its key. PostgreSQL, where it last found a table empty (dirty
# windows come and go), would read by the organisation alone and compare times afterwards: all that somebody ever used,
# 20 s for a thousand late samples among three million. A subquery about the row, not pulled up, leaves no choice.
LOOK: Final = {
    "postgresql": {
        "look": "CROSS JOIN LATERAL (SELECT * FROM",
        "by": "WHERE",
        **{f"end_{alias}": f"OFFSET 0) {alias}" for alias in "spqw"},
    },
    "sqlite": {"look": "CROSS JOIN", "by": "ON", **{f"end_{alias}": "" for alias in "spqw"}},
}

# Where each segment is one size, it is the mapping; tiers are applied to the sizes there are, each once.
MAPPED_EXACT: Final = "SELECT lo, start_ms, end_ms, feature, unit FROM segments"
MAPPED_TIERS: Final = """SELECT z.memory_mb, g.start_ms, g.end_ms, g.feature, g.unit
    FROM (SELECT DISTINCT memory_mb FROM seal_work) z JOIN segments g ON z.memory_mb BETWEEN g.lo AND g.hi"""
