"""A fleet of any size, made by the database itself: organisations, who bills them, and their samples.

Guarantee: the same arguments give the same rows; each window holds the same number of samples of each organisation and
memory size, so that the right totals are known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.schema.migrate import bucket_of
from drawdown.schema.units import GRACE_MS, WINDOW_MS
from drawdown.worker.features.actions import install_defaults

START_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z: the first window that is sealed."""
INTERVAL_S = 12
SIZES = 2
CREDIT_MICRO = 10**15

_SERIES = {
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)",
    "postgresql": "WITH n (i) AS (SELECT generate_series(CAST(:first AS BIGINT), CAST(:last AS BIGINT)))",
}
_SAMPLES = """
INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at)
{series}
SELECT 's' || :start || '-' || i, 'org-' || (k % :orgs), 'box-' || k, 'cell-' || (k % 7),
    CASE WHEN k < :orgs THEN 1024 ELSE 4096 END, 12, :start + i * 300000 / :count, :start + 300000
FROM (SELECT i, i * :stride % :count % (2 * :orgs) AS k FROM n) numbered
"""


@dataclass(frozen=True)
class Fleet:
    """`orgs` organisations that use both memory sizes in each window."""

    orgs: int
    samples_a_push: int = 25

    @property
    def pushes(self) -> int:
        """Pushes of one window."""
        return self.orgs * SIZES

    @property
    def samples(self) -> int:
        """Samples of one window."""
        return self.pushes * self.samples_a_push

    @property
    def seconds(self) -> int:
        """Seconds used in one window."""
        return self.samples * INTERVAL_S


def scaled(scale: float) -> Fleet:
    """A million samples of 20,000 organisations a window at scale 1."""
    return Fleet(max(int(20_000 * scale), 10))


def window(number: int) -> int:
    return START_MS + number * WINDOW_MS


def sealable_at(number: int) -> int:
    """The first moment at which this window may be sealed."""
    return window(number + 1) + GRACE_MS


def settle_in(engine: sa.Engine, orgs: int, watermark_ms: int = START_MS) -> None:
    """Organisations, each assigned to the embedded ledger for ever, and everything before the watermark sealed."""
    names = [f"org-{number}" for number in range(orgs)]

    def work(connection: sa.Connection) -> None:
        by = By(0, "bench", "a benchmark")
        install_defaults(connection, by)
        connection.execute(
            sa.text("INSERT INTO orgs (org_id, bucket, billing_provider) VALUES (:org, :bucket, 'embedded')"),
            [{"org": name, "bucket": bucket_of(name)} for name in names],
        )
        connection.execute(
            sa.text(
                "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
                "VALUES (:org, 0, 'embedded', :org, 0, 'bench', 'a benchmark')"
            ),
            [{"org": name} for name in names],
        )
        connection.execute(
            sa.text("UPDATE buckets SET watermark_ms = :w, sweep_next_ms = :w, sweep_began_ms = :w"),
            {"w": watermark_ms},
        )

    write(engine, work)


def give_credit(engine: sa.Engine, orgs: int) -> None:
    """More than it can use, for the first `orgs` organisations."""
    values = [{"org": f"org-{number}", "micro": CREDIT_MICRO} for number in range(orgs)]
    texts = (
        "INSERT INTO ledger_accounts (account_id, balance_micro) VALUES ('wallet:' || :org, :micro)",
        "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, ts, at_ms, actor, reason) "
        "VALUES ('grant:' || :org, 'grant', 'source:grants', 'wallet:' || :org, :micro, 0, 0, 'bench', 'a benchmark')",
    )

    def work(connection: sa.Connection) -> None:
        for text in texts:
            connection.execute(sa.text(text), values)

    write(engine, work)


def place_sandboxes(engine: sa.Engine, orgs: int) -> None:
    """One running sandbox for each organisation, on seven cells."""
    cells = [{"cell": f"cell-{number}"} for number in range(7)]
    boxes = [{"box": f"box-{number}", "org": f"org-{number}", "cell": f"cell-{number % 7}"} for number in range(orgs)]

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.text("INSERT INTO cells (cell_id, url) VALUES (:cell, 'http://' || :cell)"), cells)
        connection.execute(
            sa.text("INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:box, :org, :cell, 'running')"),
            boxes,
        )

    write(engine, work)


def use(engine: sa.Engine, fleet: Fleet, number: int) -> None:
    """Let the whole fleet use one window: `fleet.samples` samples in the order of their time, organisations mixed."""
    values = {
        "first": 0,
        "last": fleet.samples - 1,
        "start": window(number),
        "orgs": fleet.orgs,
        "count": fleet.samples,
        "stride": _coprime(fleet.samples),
    }
    text = _SAMPLES.replace("{series}", _SERIES[engine.dialect.name])
    for name in values:  # literals: a server that does not know a parameter's type cannot do arithmetic with it
        text = text.replace(f":{name}", str(values[name]))
    write(engine, lambda connection: connection.exec_driver_sql(text.replace("%", "%%") if _percents(engine) else text))


def _percents(engine: sa.Engine) -> bool:
    return engine.dialect.paramstyle in ("format", "pyformat")


def _coprime(count: int) -> int:
    """A stride that visits every number below `count` once, far from one to the next."""
    stride = int(count * 0.6180339887) | 1
    while _gcd(stride, count) != 1:
        stride += 2
    return stride


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def clock(number: int) -> FixedClock:
    """A clock that stands where this window may just be sealed."""
    return FixedClock(sealable_at(number))
