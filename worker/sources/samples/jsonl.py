"""From JSON lines to records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from drawdown.worker.sources.samples.lines import Lines, Record, is_blank, text_of
from drawdown.worker.sources.samples.rows import ID_FIELDS, ImportOptions, RowReader, Sample
from drawdown.worker.sources.samples.values import BadRow


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRow("", "duplicate_keys")
    return found


# Numbers stay the text they were written as: exact, and bounded however large, until a field's own reader has looked.
_decode: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_float=str, parse_int=str, parse_constant=str, strict=True
).decode


def jsonl_records(lines: Lines, keys: list[str], read: RowReader, options: ImportOptions) -> Iterator[Record]:
    ids = {options.source_of(name): name for name in reversed(ID_FIELDS)}
    for number, raw in lines:
        if is_blank(raw):
            continue
        outcome: Sample | BadRow
        try:
            row = _object(text_of(raw))
            outcome = read([_scalar(row.get(key), ids.get(key)) for key in keys], number)
        except BadRow as bad:
            outcome = bad
        yield number, raw, outcome


def _object(text: str) -> dict[str, object]:
    try:
        row = _decode(text)
    except (ValueError, RecursionError) as error:
        raise BadRow("", "not_json") from error
    if not isinstance(row, dict):
        raise BadRow("", "not_an_object")
    return row


def _scalar(value: object, id_field: str | None) -> str:
    """What a field's reader is given; null is as good as missing."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if id_field:
        raise BadRow(id_field, f"bad_{id_field}", json.dumps(value))
    return json.dumps(value)  # true, [] and {} are no numbers and no times
