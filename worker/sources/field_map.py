"""Map the columns of an imported file, or of a batch, to fields.

`--map FIELD=COLUMN` and `--set FIELD=VALUE` set the map.

Guarantee: this module is pure. A field has one source, which is a column, or a constant for every row. `text` and
`from_text` are inverse, and equal maps have equal texts.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from drawdown.schema.errors import UsageError
from drawdown.schema.text import quote_value


@dataclass(frozen=True)
class FieldMap:
    """The sources of fields.

    `columns`: the column's name, by field. `constants`: the text for every row, by field. Any other field has a column
    with the field's name.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)

    def require(self, fields: Collection[str]) -> None:
        """Refuse an unknown field, or a field with two sources. Errors: UsageError."""
        for name in (*self.columns, *self.constants):
            if name not in fields:
                raise UsageError(f"unknown field {quote_value(name)} in --map or --set: expected {', '.join(fields)}")
        if twice := sorted(self.columns.keys() & self.constants.keys()):
            raise UsageError(f"the field {twice[0]} has two sources. Use either --map or --set for it")

    def column_of(self, name: str) -> str:
        """Return the name of a field's column.

        A constant may replace it (see `constants`).
        """
        return self.columns.get(name, name)

    @property
    def text(self) -> str | None:
        """Return the map as JSON, as the database stores it.

        Returns None if the map has no entries. Then each field has a column with the field's name.
        """
        if not self.columns and not self.constants:
            return None
        kept = {"columns": dict(self.columns), "constants": dict(self.constants)}
        return json.dumps(kept, sort_keys=True, ensure_ascii=False)

    def __str__(self) -> str:
        """Return the map as options of a command."""
        mapped = [f"--map {name}={column}" for name, column in sorted(self.columns.items())]
        return " ".join(mapped + [f"--set {name}={value}" for name, value in sorted(self.constants.items())])


OWN_NAMES: Final = FieldMap()
"""The map in which each field has a column with the field's name."""


def from_text(text: str | None) -> FieldMap:
    """Return the map from its stored text."""
    return OWN_NAMES if text is None else FieldMap(**json.loads(text))


def field_map(maps: Sequence[str] | None, sets: Sequence[str] | None) -> FieldMap:
    """Return the field map from a command's options. Errors: UsageError."""
    return FieldMap(_pairs(maps, "--map"), _pairs(sets, "--set"))


def _pairs(given: Sequence[str] | None, option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name or name in pairs:
            raise UsageError(f"invalid {option} {quote_value(text)}: expected FIELD=…, each field once")
        pairs[name] = value
    return pairs
