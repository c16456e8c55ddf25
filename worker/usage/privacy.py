"""Scan reports for private data, and return the public summary of events.

The scanner compares the words of a report with the ids of this database. It checks reports of people and programs, and
the summary before a call returns it. Reads only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from drawdown.events.privacy.leaves import read_reports
from drawdown.events.privacy.rules import ForeignRule
from drawdown.events.privacy.scan import MAX_FINDINGS, Finding, require_public, scan
from drawdown.events.privacy.shapes import Shape
from drawdown.events.summary import LEAST, NAME, SHAPE, OrgUse, grouped
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS

SQL = queries(__file__)

WORDS_AT_ONCE: Final = 5_000
"""Words of a report that one statement compares with ids."""
SHAPES: Final[dict[str, Shape]] = {NAME: SHAPE}
"""The shapes of published reports, by the name in their field `report`."""


@dataclass(frozen=True)
class ScannedFile:
    """The findings of one file.

    `reports`: the number of its reports. `count`: the number of all findings. `findings`: the first MAX_FINDINGS
    findings. In a file of JSON lines, each path begins with the line.
    """

    file: str
    reports: int
    findings: list[Finding]
    count: int


def known_ids(connection: sa.Connection, words: frozenset[str]) -> set[str]:
    """Return the words that are ids in this database.

    The ids are those of organisations, customers, users, sandboxes, projects, suppliers, and records, such as events. A
    word that is also the name of a feature, an event type or a tier is not returned. The call reads tables without a
    suitable index as a whole, once for WORDS_AT_ONCE words.
    """
    asked = sorted(filter(is_clean_id, words))
    found: set[str] = set()
    for start in range(0, len(asked), WORDS_AT_ONCE):
        rows = [{"word": text} for text in asked[start : start + WORDS_AT_ONCE]]
        found.update(SQL.run(connection, "known", {"words": rows}).scalars())
    return found


@dataclass(frozen=True)
class Beside:
    """Further inputs of a scan.

    `shape`: the name of a required shape (None: any). `secrets`: configured secrets. `others`: rules of other programs.
    """

    shape: str | None = None
    secrets: Collection[str] = ()
    others: Collection[ForeignRule] = ()

    def __post_init__(self) -> None:
        """Refuse an unknown shape. Errors: UsageError."""
        if self.shape is not None and self.shape not in SHAPES:
            raise UsageError(f"invalid --shape {quote_value(self.shape)}: expected one of {', '.join(SHAPES)}")


def scan_file(connection: sa.Connection | None, name: str, content: bytes, beside: Beside) -> ScannedFile:
    """Scan a file of reports.

    `connection` None: do not compare words with ids of a database. Each report must have the shape of `beside`.

    Errors: UsageError with the file's name if the file cannot be read.
    """
    try:
        reports = read_reports(content)
    except UsageError as error:
        raise UsageError(f"{name}: {error}", code=error.code) from None
    findings: list[Finding] = []
    count = 0
    for line, report in reports:
        found = scan(
            report,
            shape=None if beside.shape is None else SHAPES[beside.shape],
            known_ids=None if connection is None else lambda words: known_ids(connection, words),
            secrets=beside.secrets,
            others=beside.others,
        )
        count += found.count
        before = "" if line is None else f"line {line}: "
        findings += [Finding(before + one.path, one.rule) for one in found.findings][: MAX_FINDINGS - len(findings)]
    return ScannedFile(name, len(reports), findings, count)


MAX_SUMMARY_DAYS: Final = 400
"""Most days of one public summary."""
MAX_USES: Final = 1_000_000
"""Rows of one summary's input.

A row is a combination of organisation, plan, kind and day.
"""


def summarise(
    connection: sa.Connection, from_ms: int, to_ms: int, now_ms: int, secrets: Collection[str] = ()
) -> dict[str, Any]:
    """Return the public summary of the UTC days in [from_ms, to_ms).

    The summary has the shape `events.summary.SHAPE`.

    Errors: UsageError for a range that is empty, too long, or not of whole days, or has more than MAX_USES rows.
    NotPublic if a text of the summary is private.
    """
    if from_ms % DAY_MS or to_ms % DAY_MS:
        raise UsageError(
            f"invalid range {show_time(from_ms)} to {show_time(to_ms)}: expected whole days in UTC, such as 2026-01-31"
        )
    if to_ms <= from_ms:
        raise UsageError(f"invalid range {show_time(from_ms)} to {show_time(to_ms)}: --to must be later than --from")
    if to_ms - from_ms > MAX_SUMMARY_DAYS * DAY_MS:
        raise UsageError(f"the range is longer than {MAX_SUMMARY_DAYS} days. Make a summary of each part")
    rows, withheld = grouped(_uses(connection, from_ms, to_ms))
    report = {
        "report": NAME,
        "made_at": datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "from": _day(from_ms),
        "to": _day(to_ms),
        "least": LEAST,
        "withheld": withheld,
        "rows": [asdict(row) for row in rows],
    }
    # At least LEAST organisations use each of these labels, so a label is not an id.
    shared = {label for row in rows for label in (row.plan, row.kind)}

    def private(words: frozenset[str]) -> set[str]:
        return known_ids(connection, words - shared)

    require_public(report, SHAPE, known_ids=private, secrets=secrets)
    return report


def _uses(connection: sa.Connection, from_ms: int, to_ms: int) -> Iterator[OrgUse]:
    values = {"from_ms": from_ms, "to_ms": to_ms, "at_most": MAX_USES + 1}
    for number, row in enumerate(SQL.run(connection, "uses", values)):
        if number == MAX_USES:
            raise UsageError(
                f"the range has more than {MAX_USES:,} combinations of organisation, plan, kind and day. Choose a "
                "shorter range"
            )
        day, events, quantity = _day(int(row.day_ms)), int(row.events), int(row.quantity)
        yield OrgUse(str(row.org_id), row.plan_key, str(row.event_type), day, events, quantity)


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).date().isoformat()
