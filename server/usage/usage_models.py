"""The query and the answer of GET /v1/usage."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict

from drawdown.events.envelope import Unfit
from drawdown.events.fields import moment_of
from drawdown.server.api.run_models import MOST_ROWS

_COUNT: Final = re.compile("[0-9]{1,20}")
_DAY: Final = "2026-02-03"


def _moment(value: object) -> int:
    """Milliseconds since 1970. Errors: ValueError."""
    text = str(value)
    is_count = _COUNT.fullmatch(text)
    try:
        return moment_of(int(text) if is_count else f"{text}T00:00:00Z" if len(text) == len(_DAY) else text, "it")
    except Unfit as error:
        raise ValueError(str(error)) from None


Moment = Annotated[
    int,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "description": "2026-02-03, 2026-02-03T04:05:00Z, or milliseconds since 1970"}),
]


class UsageQuery(BaseModel):
    """What was used in windows from `from` on and before `to` (if it is not said, up to the one that goes on now).
    `after`: `next` of the page before."""

    model_config = ConfigDict(extra="forbid")

    from_ms: Annotated[Moment, Field(alias="from")]
    to_ms: Annotated[Moment | None, Field(alias="to")] = None
    by: Literal["feature", "day", "sandbox", "project", "subject"] = "feature"
    most: Annotated[int, Field(ge=1, le=MOST_ROWS)] = MOST_ROWS
    after: Annotated[str, Field(max_length=300)] | None = None


class UsageRowAnswer(BaseModel):
    """Base units of a feature: seconds (`s`), MB-seconds (`mb_s`) or `units`. `what`: the day, sandbox, project or
    subject; empty: none was said, or it was pruned. `feature` empty: nothing makes one of it yet. `sealed` null: no
    push says for which of them it is."""

    what: str
    feature: str
    unit: str
    used: int
    sealed: int | None


class CarriedAnswer(BaseModel):
    """Base units that are sealed and wait for a whole unit of their provider."""

    provider: str
    customer_id: str
    feature: str
    quantity: int


USAGE_EXAMPLE: Final[JsonDict] = {
    "org_id": "acme",
    "by": "day",
    "from_ms": 1_770_076_800_000,
    "to_ms": 1_770_163_200_000,
    "pruned": False,
    "rows": [{"what": "2026-02-03", "feature": "render", "unit": "units", "used": 3, "sealed": 3}],
    "carried": [],
    "next": None,
}


class UsageAnswer(BaseModel):
    """An organisation's usage. `pruned`: of the range's beginning, samples are gone: there, used is what was sealed.
    `next` of a page is `after` of the next one."""

    model_config = ConfigDict(json_schema_extra={"examples": [USAGE_EXAMPLE]})

    org_id: str
    by: str
    from_ms: int
    to_ms: int
    pruned: bool
    rows: list[UsageRowAnswer]
    carried: list[CarriedAnswer]
    next: str | None
