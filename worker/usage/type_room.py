"""Room for event types: keys, sources and organisations that brought as many as they may. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import Part, queries, together
from drawdown.schema.units import MAX_EVENT_TYPES, MAX_KEY_TYPES, MAX_ORG_TYPES, MAX_SOURCE_TYPES

SQL = queries(__file__)

NEAR_TYPES: Final = MAX_EVENT_TYPES * 9 // 10
"""From so many event types on, a person is told how many are left."""
MOST_NAMED: Final = 20
"""Of those that brought as many as they may."""
NAME_ONE: Final = "drawdown key list shows who sends events; drawdown feature map-event TYPE FEATURE adds a type"
"""What a person does about it."""


@dataclass(frozen=True)
class ShortOfTypes:
    """`whose`: database, organisation, key or source; `name`: which of them; `types`: how many it brought, or has."""

    whose: str
    name: str
    types: int

    def __str__(self) -> str:
        if self.whose == "database":
            return (
                f"{self.types:,} of {MAX_EVENT_TYPES:,} event types are in use: events of further types will be refused"
            )
        return f"the {self.whose} {self.name} brought {self.types:,} event types: its events of other types are refused"


def short_of_types_part() -> Part:
    """One row for each that has no room left; none where all have."""
    most = {"most_org": MAX_ORG_TYPES, "most_key": MAX_KEY_TYPES, "most_source": MAX_SOURCE_TYPES}
    return SQL.part("short_of_types", {"near": NEAR_TYPES, "at_most": MOST_NAMED, **most})


def short_of_types(connection: sa.Connection) -> list[ShortOfTypes]:
    """The same, read alone."""
    return [ShortOfTypes(**vars(row)) for row in together(connection, found=short_of_types_part())["found"]]
