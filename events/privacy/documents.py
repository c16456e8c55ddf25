"""Reports as text: JSON and JSON lines, read so that nothing in them is lost.

Guarantee: of two values of one key both are kept, and a number stays as it was written. What cannot be read is an
error, and nothing of it is repeated.
"""

from __future__ import annotations

import json
from typing import Final

from drawdown.schema.errors import UsageError

MAX_REPORT_BYTES: Final = 2_097_152


class Pairs(list[tuple[str, object]]):
    """An object of JSON: its keys with their values, in their order, all of them."""


class Number(str):
    """A number of JSON, as it was written."""

    __slots__ = ()


def read_reports(content: bytes) -> list[tuple[int | None, object]]:
    """The reports of a file: one (with None), or one for each line that is not empty, with the line's number.

    Errors: UsageError `report_too_large`, `bad_encoding`, `bad_json`, `report_too_deep`.
    """
    if len(content) > MAX_REPORT_BYTES:
        raise UsageError(f"a report has {MAX_REPORT_BYTES:,} bytes at most", code="report_too_large")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"it is not UTF-8: see byte {error.start + 1:,}", code="bad_encoding") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and _begins_with_a_whole(lines[0][1]):
        return [(number, parse(line, f"line {number:,}")) for number, line in lines]
    return [(None, parse(text))]


def parse(text: str, where: str = "it") -> object:
    """One value of JSON. Errors: UsageError `bad_json`, `report_too_deep`."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise UsageError(f"{where} is nested too deeply", code="report_too_deep") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno:,}, column {error.colno:,}" if where == "it" else f"column {error.colno:,}"
        raise UsageError(f"{where} is no JSON: see {place}", code="bad_json") from None
    except ValueError:
        raise UsageError(f"{where} holds a number that JSON does not have", code="bad_json") from None


def _begins_with_a_whole(line: str) -> bool:
    """Whether a first line is a report of its own: then each line is one."""
    try:
        parse(line)
    except UsageError:
        return False
    return True


def _none_such(name: str) -> object:
    raise ValueError(name)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=_none_such
)
