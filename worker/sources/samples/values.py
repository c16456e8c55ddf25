"""From one text to one value of a sample, or the reason why not.

Guarantee: pure and exact (integers and Decimals, never a float). No text, however long or large its number, costs more
than its own length. The reasons are the words of the column `usage_samples.problem` wherever the database has one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Final
from zoneinfo import ZoneInfo

from drawdown.events.moments import from_iso
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.units import MAX_INTERVAL_S, MAX_MEMORY_MB
from drawdown.worker.sources.samples.made import RESERVED_IDS

MAX_CPU_COUNT: Final = 100_000
_MAX_NUMBER_CHARS: Final = 100

REASONS: Final = {
    "bad_id": "must have 1 to 200 characters and no control characters",
    "reserved_id": f"begins with {', '.join(RESERVED_IDS[:-1])} or {RESERVED_IDS[-1]}, as ids of samples made here do: "
    "choose another",
    "memory_missing": "is missing",
    "memory_not_a_number": "is not a number",
    "memory_fractional": "must be whole megabytes",
    "memory_out_of_bounds": f"must be between 0 and {MAX_MEMORY_MB}",
    "interval_missing": "is missing",
    "interval_not_a_number": "is not a number",
    "interval_negative": "is negative",
    "interval_fractional": "must be whole seconds",
    "interval_over_a_day": f"is more than a day ({MAX_INTERVAL_S} s)",
    "ts_missing": "is missing",
    "ts_unreadable": "does not have the time format given (--time-format)",
    "ts_not_in_zone": "does not exist in its zone: the clocks were put forward over it",
    "ts_before_2000": "is before the year 2000; are the units right (--time-format s, or ms)?",
    "ts_in_the_future": "is more than 5 minutes ahead of now",
    "cpu_not_a_number": "is not a number",
    "cpu_out_of_bounds": f"must be between 0 and {MAX_CPU_COUNT}",
    "too_few_columns": "the row has fewer fields than the header",
    "too_many_columns": "the row has more fields than the header",
    "csv_syntax": "the row is not well-formed CSV (a quote left open?)",
    "not_json": "the row is not JSON",
    "not_an_object": "the row is not a JSON object",
    "duplicate_keys": "the row names a key twice",
    "not_utf8": "the row is not UTF-8",
    "line_too_long": "the line is longer than 1 MiB",
    "conflict": "the same id is there with other content; this row was quarantined",
}
"""Each reason, as a machine says it and as a person reads it after the column's name."""


class BadRow(Exception):
    """A row is refused: `column` (empty where the whole row is meant), `reason`, and the offending `text`."""

    def __init__(self, column: str, reason: str, text: str = "") -> None:
        super().__init__(column, reason, text)
        self.column, self.reason, self.text = column, reason, text


_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_EXACT: Final = Context(prec=2 * _MAX_NUMBER_CHARS)


def id_reader(column: str) -> Callable[[str], str]:
    """A reader of ids for one column. It raises BadRow `bad_{column}`."""

    def read(text: str) -> str:
        if not is_clean_id(text):
            raise BadRow(column, f"bad_{column}", text)
        return text

    return read


_READ_ID: Final = id_reader("id")


def read_sample_id(text: str) -> str:
    """Read the id of a sample that was observed. Raises BadRow `reserved_id`, too."""
    if text.startswith(RESERVED_IDS):  # the database refuses it, and with it all that goes in together
        raise BadRow("id", "reserved_id", text)
    return _READ_ID(text)


def _number(column: str, word: str, text: str) -> Decimal:
    stripped = text.strip()
    if not stripped:
        raise BadRow(column, f"{word}_missing", text)
    if len(stripped) > _MAX_NUMBER_CHARS or not _NUMBER.fullmatch(stripped):
        raise BadRow(column, f"{word}_not_a_number", text)
    return Decimal(stripped)


def _is_whole(number: Decimal) -> bool:
    return number == number.to_integral_value()


def read_memory_mb(text: str) -> int:
    """Whole megabytes. Raises BadRow."""
    number = _number("memory_mb", "memory", text)
    if not 0 <= number <= MAX_MEMORY_MB:
        raise BadRow("memory_mb", "memory_out_of_bounds", text)
    if not _is_whole(number):
        raise BadRow("memory_mb", "memory_fractional", text)
    return int(number)


def read_interval_s(text: str) -> int:
    """Whole seconds: "32", "32.0" and "3.2e1" are 32. Raises BadRow."""
    number = _number("interval_s", "interval", text)
    if number < 0:
        raise BadRow("interval_s", "interval_negative", text)
    if number > MAX_INTERVAL_S:
        raise BadRow("interval_s", "interval_over_a_day", text)
    if not _is_whole(number):
        raise BadRow("interval_s", "interval_fractional", text)
    return int(number)


def read_cpu_count(text: str) -> str | None:
    """CPUs to nine decimals (what SQLite keeps exactly), in the one shortest spelling; None where empty.

    Raises BadRow. Never billed; kept because other programs read it.
    """
    if not text.strip():
        return None
    number = _number("cpu_count", "cpu", text)
    if not 0 <= number <= MAX_CPU_COUNT:
        raise BadRow("cpu_count", "cpu_out_of_bounds", text)
    return plain(number)


def plain(number: Decimal) -> str:
    """The one shortest spelling of a number of CPUs, without an exponent."""
    rounded = number.quantize(Decimal("1e-9"), context=_EXACT)
    return f"{rounded:f}".rstrip("0").rstrip(".")


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_PROBE: Final = datetime(2024, 11, 25, 16, 57, 50, tzinfo=UTC)
_MAX_MS_DIGITS: Final = 18


def time_reader(style: str, zone: str) -> Callable[[str], int]:
    """A reader of times into milliseconds since the epoch; anything finer is cut off.

    `style` is `iso`, `s` or `ms` (since the epoch, decimals allowed), or a strptime pattern. Times that name no offset
    are local in `zone`: where clocks were put back the first of the two is meant, and a time that clocks skipped is
    refused. The reader raises BadRow; a wrong style or zone is a UsageError.
    """
    if style in ("s", "ms"):
        return _counted(1000 if style == "s" else 1)
    place = _zone(zone)
    if style == "iso":
        return _dated(from_iso, place)
    if "%" not in style:
        raise UsageError(f"--time-format {style}: use iso, s, ms, or a pattern such as '%d.%m.%Y %H:%M:%S'")
    try:
        datetime.strptime(_PROBE.strftime(style), style).astimezone(UTC)
    except (ValueError, re.error) as error:
        raise UsageError(f"--time-format {style}: not a pattern that times can be read with ({error})") from error
    return _dated(lambda text: datetime.strptime(text, style), place)  # noqa: DTZ007 -- _dated gives it its zone


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise UsageError(f"--zone {name}: no such zone; use a name such as UTC or Europe/Berlin") from error


def _counted(factor: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text.isdecimal() and text.isascii() and len(text) <= _MAX_MS_DIGITS:
            return int(text) * factor
        try:
            number = _number("ts", "ts", text)
        except BadRow as bad:
            raise BadRow("ts", bad.reason.replace("not_a_number", "unreadable"), text) from bad
        if number and number.adjusted() > _MAX_MS_DIGITS:  # before any arithmetic: 1e999999 has a million digits
            raise BadRow("ts", "ts_before_2000" if number < 0 else "ts_in_the_future", text)
        return int(_EXACT.multiply(number, Decimal(factor)).to_integral_value(ROUND_FLOOR))

    return read


def _dated(parse: Callable[[str], datetime], zone: tzinfo) -> Callable[[str], int]:
    def read(text: str) -> int:
        stripped = text.strip()
        if not stripped:
            raise BadRow("ts", "ts_missing", text)
        try:
            moment = parse(stripped)
            if moment.tzinfo is None:
                moment = _local(moment, zone)
            return (moment - _EPOCH) // _MS
        except (ValueError, OverflowError) as error:
            raise BadRow("ts", "ts_unreadable", text) from error
        except LookupError as error:
            raise BadRow("ts", "ts_not_in_zone", text) from error

    return read


def _local(moment: datetime, zone: tzinfo) -> datetime:
    """The first moment at which the clocks of `zone` showed this; LookupError where they never did."""
    first = moment.replace(tzinfo=zone)
    if zone is UTC:
        return first
    before, after = first.utcoffset(), first.replace(fold=1).utcoffset()
    assert before is not None and after is not None, "a zone knows its offset"
    if before < after:
        raise LookupError("skipped")
    return first
