"""Read cells' totals of usage from a file or from a cell's response.

This module is pure, except that it opens the file.

Guarantee: if one total is invalid, the whole input is refused, and the error names the place. A misread total would
look like a difference, or hide a difference. Totals are not truncated, and a duplicate is refused.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import quote_value
from drawdown.schema.units import DAY_MS, MAX_ID_CHARS, MAX_MEMORY_MB, SECOND_MS
from drawdown.worker.sources.table import Table, Unfit

FIELDS: Final = ("day", "cell_id", "org_id", "memory_mb", "seconds")
MAX_FILE_BYTES: Final = 64 << 20
"""Largest size of a file of totals, in bytes."""
MAX_TOTALS: Final = 500_000
"""Most totals in one file."""
MAX_ANSWER_TOTALS: Final = 100_000
"""Most totals in a cell's response for a day.

Each total may name an organisation that Drawdown does not know yet.
"""
MAX_SECONDS: Final = 10**15
"""Most seconds in one total, enough for a million sandboxes for thirty years."""
MAX_DAYS: Final = 400
"""Most days of a file of totals, or of one check."""
STDIN: Final = "-"
ALL_CELLS: Final = ""
_NEEDED: Final = ("day", "org_id", "seconds")
_SIGNS_OF_A_TOTAL: Final = 8
"""Signs in the JSON of a total: `{`, three `:`, two `,`, a sign after the total, and a sign for its surroundings."""
_SIGN: Final = re.compile(rb'(?:[^"{\[:,]++|"(?:[^"\\]++|\\(?:.|\Z))*+(?:"|\Z))*+(?:[{\[:,]|\Z)', re.DOTALL)
"""A sign outside of strings, with all characters before it. An endless string extends to the end, and so does the
rest without a sign, so that each character is read once.
"""
_BOM: Final = "\ufeff"
_DAY: Final = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


class BadTotal(ValueError):
    """Raised if a total is invalid. The text names the fault."""


@dataclass(frozen=True)
class Total:
    """An organisation's seconds of use on a day (UTC).

    `cell_id`: '' for all cells together. `memory_mb`: None for all sizes together.
    """

    day_ms: int
    cell_id: str
    org_id: str
    memory_mb: int | None
    seconds: int


BySize = dict[int | None, int]
"""Seconds by memory size (MB); None: all sizes together."""
Days = dict[tuple[int, str], dict[str, BySize]]
"""Seconds by size, of each organisation, by day and cell."""


def read_file(name: str, stdin: BinaryIO | None = None) -> Days:
    """Return the totals of a file of CSV or JSON lines; `-` is standard input.

    Errors: UsageError for a file that cannot be read, or has an invalid total. The error names the line of the total.
    """
    text = _text_of(name, stdin)
    rows: Iterator[tuple[int, Mapping[str, object] | str]]
    rows = _json_lines(text) if text.lstrip()[:1] == "{" else _csv_rows(text)
    line = 1
    found: list[Total] = []
    try:
        for number, row in rows:
            line = number
            found.append(total_of(_object_of_line(row) if isinstance(row, str) else row))
            if len(found) > MAX_TOTALS:
                raise BadTotal(f"the file has more than {MAX_TOTALS:,} totals. Pass fewer days at once")
        if not found:
            raise BadTotal("the file does not have totals. Write one total a line")
        return by_day(found)
    except (BadTotal, Unfit) as bad:
        at = bad.line if isinstance(bad, Unfit) else line
        raise UsageError(f"{name}, line {at}: {bad}") from bad


def of_answer(body: bytes, cell_id: str, day_ms: int) -> dict[str, BySize]:
    """Return a cell's totals of a day: seconds by organisation and size.

    The body is `{"cell_id": …, "day": "2026-01-31", "usage": [{"org_id", "memory_mb", "seconds"}]}`.

    Errors: BadTotal if the response is invalid, too long, or for another cell or day.
    """
    if not _may_be_read(body):
        raise _too_many()
    answer = _object(body.decode("utf-8", "replace"))
    if answer.get("cell_id") != cell_id or answer.get("day") != day_text(day_ms):
        raise BadTotal(f"the response is for another cell or day: expected {cell_id} and {day_text(day_ms)}")
    usage = answer.get("usage")
    if not isinstance(usage, list):
        raise BadTotal("invalid usage: expected a list of objects")
    if len(usage) > MAX_ANSWER_TOTALS:
        raise _too_many()
    same = {"day": day_text(day_ms), "cell_id": cell_id}
    found: list[Total] = []
    for number, row in enumerate(usage):
        if not isinstance(row, dict) or set(row) - {"org_id", "memory_mb", "seconds"}:
            raise BadTotal(f"usage[{number}]: expected an object of org_id, memory_mb and seconds")
        try:
            found.append(total_of({**row, **same}))
        except BadTotal as bad:
            raise BadTotal(f"usage[{number}]: {bad}") from bad
    return by_day(found).get((day_ms, cell_id), {})


def _may_be_read(body: bytes) -> bool:
    """Return True if a body has at most the JSON signs of the largest valid response.

    The signs are `{`, `[`, `:` and `,`. Parsing turns a name, value or object of a few bytes into 60 to 200 bytes. Ids
    may also contain such signs. If there are too many signs, the function counts again, without the signs inside
    strings.
    """
    most = _SIGNS_OF_A_TOTAL * (MAX_ANSWER_TOTALS + 1)
    if sum(map(body.count, (b"{", b"[", b":", b","))) <= most:
        return True
    return sum(1 for _ in islice(_SIGN.finditer(body), most + 1)) <= most


def _too_many() -> BadTotal:
    return BadTotal(f"the response has more than {MAX_ANSWER_TOTALS:,} totals")


def total_of(row: Mapping[str, object]) -> Total:
    """Return a total from texts (CSV) or JSON values.

    Errors: BadTotal.
    """
    org, cell = row.get("org_id"), row.get("cell_id")
    if not isinstance(org, str) or not is_clean_id(org):
        raise BadTotal(
            f"invalid org_id {quote_value(org)}: expected 1 to {MAX_ID_CHARS} characters without control characters"
        )
    if cell not in (None, "") and not (isinstance(cell, str) and is_clean_id(cell)):
        raise BadTotal(
            f"invalid cell_id {quote_value(cell)}: expected 1 to {MAX_ID_CHARS} characters without control characters"
        )
    size = row.get("memory_mb")
    memory_mb = None if size in (None, "") else _whole("memory_mb", size, MAX_MEMORY_MB)
    seconds = _whole("seconds", row.get("seconds"), MAX_SECONDS)
    return Total(_day(row.get("day")), str(cell or ALL_CELLS), org, memory_mb, seconds)


def by_day(totals: Iterable[Total]) -> Days:
    """Return the totals by day, cell, organisation and size.

    Errors: BadTotal for more than MAX_DAYS days, or if a total appears twice. BadTotal, too, for totals both by size
    and for all sizes, or both by cell and for all cells.
    """
    found: Days = {}
    for one in totals:
        of_org = found.setdefault((one.day_ms, one.cell_id), {}).setdefault(one.org_id, {})
        if one.memory_mb in of_org or (of_org and (None in of_org) != (one.memory_mb is None)):
            size = "" if one.memory_mb is None else f" at {one.memory_mb} MB"
            raise BadTotal(
                f"{one.org_id}{size} has more than one total for {day_text(one.day_ms)}. Pass one total for all "
                "sizes, or one for each size"
            )
        of_org[one.memory_mb] = one.seconds
    if len({day for day, _ in found}) > MAX_DAYS:
        raise BadTotal(f"the totals cover more than {MAX_DAYS} days. Pass fewer days at once")
    both = {day for day, cell in found if cell == ALL_CELLS} & {day for day, cell in found if cell != ALL_CELLS}
    if both:
        raise BadTotal(
            f"{day_text(min(both))} has totals with a cell_id and totals without a cell_id. Pass all totals with a "
            "cell_id, or all totals without"
        )
    return found


def day_text(day_ms: int) -> str:
    """Return the date of a day, such as `2026-01-31`."""
    return datetime.fromtimestamp(day_ms // SECOND_MS, UTC).date().isoformat()


def _text_of(name: str, stdin: BinaryIO | None) -> str:
    try:
        if name == STDIN:
            raw = (stdin if stdin is not None else sys.stdin.buffer).read(MAX_FILE_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name}: {getattr(error, 'strerror', None) or error}. Name a file that Drawdown can read"
        ) from error
    if len(raw) > MAX_FILE_BYTES:
        raise UsageError(f"{name}: the file is larger than {MAX_FILE_BYTES >> 20} MiB. Pass fewer days at once")
    try:
        return raw.decode().removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: the file is not UTF-8 at byte {error.start:,}. Save it as UTF-8") from error


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    table = Table(text)
    names = [name.strip() for name in next(table, [])]
    unknown = [name for name in names if name not in FIELDS]
    if unknown or len(set(names)) != len(names) or not set(_NEEDED) <= set(names):
        said = f", not {unknown[0][:MAX_ID_CHARS]!r}" if unknown else ""
        raise BadTotal(
            f"invalid columns: expected day, org_id, seconds and, if you have them, memory_mb, cell_id{said}"
        )
    for fields in table:
        if fields and len(fields) != len(names):
            cut = ". The line may be cut off" if len(fields) < len(names) else ""
            raise Unfit(
                table.line, f"expected {len(names)} columns, as in the first line, and found {len(fields):,}{cut}"
            )
        if fields:
            yield table.line, dict(zip(names, fields, strict=True))


def _json_lines(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _object_of_line(line: str) -> Mapping[str, object]:
    if line.lstrip().startswith("{") and not line.rstrip().endswith("}"):
        raise BadTotal("not a JSON object: the line may be cut off")
    row = _object(line)
    if unknown := set(row) - set(FIELDS):
        raise BadTotal(f"unknown field {sorted(unknown)[0]!r}: expected {', '.join(FIELDS)}")
    return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadTotal("duplicate field in a JSON object. Send each field once")
    return found


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except BadTotal:
        raise
    except (ValueError, RecursionError) as error:
        raise BadTotal("not JSON: expected an object") from error
    if not isinstance(found, dict):
        raise BadTotal("not a JSON object: expected {…}")
    return found


def _whole(name: str, value: object, most: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(most)):
        value = int(value)
    if type(value) is not int or not 0 <= value <= most:
        raise BadTotal(f"invalid {name} {quote_value(value)}: expected a whole number from 0 to {most:,}")
    return value


def _day(value: object) -> int:
    try:
        if not isinstance(value, str) or not _DAY.fullmatch(value):
            raise ValueError
        return (date.fromisoformat(value) - date(1970, 1, 1)).days * DAY_MS
    except ValueError as error:
        raise BadTotal(f"invalid day {quote_value(value)}: expected a date such as 2026-01-31") from error
