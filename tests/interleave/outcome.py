"""What two transactions have left behind, as one text: cases that left the same are judged once.

Guarantee: whatever ticks and judges go by is in it: every row, and what providers, cells and hosts know. PostgreSQL's
transaction numbers are there by their order alone; the product compares them, and asks for nothing else of them. What
people did is there without its place in the audit, which the order of two commits decides, and with whether its chain
holds: nothing but `verify` asks for more.
"""

from __future__ import annotations

import hashlib
from typing import Final

import sqlalchemy as sa

from drawdown.schema import audit
from drawdown.schema.database import read
from drawdown.schema.tables.whole import metadata
from tests.interleave.stage import Stage

NUMBERS: Final = {"usage_samples": "arrival", "buckets": "cursor", "seals": "cursor"}
"""Columns of transaction numbers; `buckets.in_flight` has several."""
PLACES: Final = {"operator_actions": ("action_id", "hash"), "action_chain": ("hash",)}
"""Columns of the audit's order."""


def _content(table: str) -> str:
    apart = ", ".join(f"'{name}'" for name in (NUMBERS.get(table, ""), "in_flight", *PLACES.get(table, ())))
    row = f"(to_jsonb(t) - ARRAY[{apart}])::text"
    return f"SELECT '{table}' AS name, string_agg({row}, chr(10) ORDER BY {row}) AS found FROM {table} t"


_ROWS: Final = " UNION ALL ".join(map(_content, sorted(metadata.tables)))
_NUMBERED: Final = """
SELECT 'sample ' || id AS place, arrival AS number FROM usage_samples
UNION ALL SELECT 'bucket ' || id, cursor FROM buckets
UNION ALL SELECT 'in flight ' || id, unnest(in_flight) FROM buckets
UNION ALL SELECT 'seal ' || seal_id, cursor FROM seals ORDER BY 1, 2
"""


def left_behind(stage: Stage) -> str:
    """The same for two cases only where nothing that comes after can tell them apart."""
    rows = read(stage.engine, lambda c: c.execute(sa.text(_ROWS)).all())
    broken = read(stage.engine, lambda c: list(audit.broken(c)))
    numbered = read(stage.engine, lambda c: c.execute(sa.text(_NUMBERED)).all())
    order = {number: place for place, number in enumerate(sorted({number for _, number in numbered}))}
    by_order = [(place, order[number]) for place, number in numbered]
    outside = [vars(one) for one in (stage.fake, stage.bank, stage.other, stage.cells)] + [stage.product.ids()]
    said = (stage.told, stage.may_leave, stage.failures)
    known = (sorted(stage.samples.items()), stage.clock.at_ms, stage.workers, *said)
    return hashlib.sha256(repr((sorted(map(tuple, rows)), broken, by_order, outside, known)).encode()).hexdigest()
