"""The scanner beside this database: whatever a person or a program asks to be scanned. Reads only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.events.privacy.documents import read_reports
from drawdown.events.privacy.gitleaks import ForeignRule
from drawdown.events.privacy.scan import MAX_FINDINGS, Finding, scan
from drawdown.events.privacy.shapes import Shape
from drawdown.events.summary import NAME, SHAPE
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries

SQL = queries(__file__)
WORDS_AT_ONCE: Final = 5_000
"""Words of a report that one statement looks for among ids."""
SHAPES: Final[dict[str, Shape]] = {NAME: SHAPE}
"""Reports that are published, by the name that each says as `report`."""


@dataclass(frozen=True)
class ScannedFile:
    """What was found in one file: `count` findings, the first of them told; of JSON lines, the line before the path."""

    file: str
    reports: int
    findings: list[Finding]
    count: int


def known_ids(connection: sa.Connection, words: frozenset[str]) -> set[str]:
    """Those of the words that are ids here: of whoever uses, pays, supplies or signs in, and of what was kept of that.

    Tables without an index for it are read whole, once for WORDS_AT_ONCE words.
    """
    asked = sorted(filter(is_clean_id, words))
    found: set[str] = set()
    for start in range(0, len(asked), WORDS_AT_ONCE):
        rows = [{"word": text} for text in asked[start : start + WORDS_AT_ONCE]]
        found.update(SQL.run(connection, "known", {"words": rows}).scalars())
    return found


@dataclass(frozen=True)
class Beside:
    """What a scan goes by beside the rules: a shape's name, configured secrets, rules of others."""

    shape: str | None = None
    secrets: Collection[str] = ()
    others: Collection[ForeignRule] = ()

    def __post_init__(self) -> None:
        """Errors: UsageError for a shape there is not."""
        if self.shape is not None and self.shape not in SHAPES:
            raise UsageError(f"--shape {self.shape!r}: there is {', '.join(SHAPES)}")


def scan_file(connection: sa.Connection | None, name: str, content: bytes, beside: Beside) -> ScannedFile:
    """Scan a file of reports. `connection` None: beside no database. The shape is the one that each has to have.

    Errors: UsageError for what cannot be read, with the file's name.
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
