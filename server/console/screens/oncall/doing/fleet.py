"""An organisation's limits are overridden, a run is given up, a cell is known or forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.schema.audit import require_org
from drawdown.schema.errors import UsageError
from drawdown.schema.typed.parsing import show_credits, show_time, type_credits
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field, Size, WrongField
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.templates import url
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.lists import show_run
from drawdown.worker.halts import cells
from drawdown.worker.halts.lists import url_of_cell
from drawdown.worker.orgs import actions as orgs

ORG: Final = Field("id", "Organisation")
MAX_CONCURRENT: Final = 2**31 - 1
YES: Final = (("no", "no"), ("yes", "yes"))


def _limits(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    row = require_org(connection, doing.text("id"))
    never = "not halted, whatever the balance" if row.override_halted is False else figures.UNKNOWN
    until = "until it is undone" if row.override_until_ms is None else figures.time(row.override_until_ms)
    says = row.override_halted is not None or row.override_max_concurrent is not None
    return [
        Fact("Halted", f"yes: {row.halt_reason}" if row.is_halted else "no"),
        Fact("Sandboxes at once", figures.count(row.max_concurrent_sandboxes)),
        Fact("An operator says", never),
        Fact("An operator's number", figures.count(row.override_max_concurrent)),
        Fact("Until, UTC", until if says else figures.UNKNOWN),
    ]


def _override(connection: sa.Connection, doing: Doing) -> Done:
    org, most, until = doing.text("id"), _most(doing), doing.time("until")
    halted = False if doing.values["never_halt"] == "yes" else None
    done = orgs.override(connection, org, doing.by, max_concurrent=most, halted=halted, until_ms=until)
    number = figures.count(done.max_concurrent_sandboxes)
    return Done(f"{org}: {'halted' if done.is_halted else 'runs'}, {number} sandboxes at once")


def _most(doing: Doing) -> int | None:
    found = doing.number("max_concurrent")
    if found is not None and found > MAX_CONCURRENT:
        raise WrongField("max_concurrent", f"{MAX_CONCURRENT:,} at most")
    return found


def _override_size(_connection: sa.Connection, doing: Doing) -> Size:
    """An organisation that is never halted uses what it has no credit for."""
    return Size(unbounded=doing.values["never_halt"] == "yes")


def _release_size(connection: sa.Connection, doing: Doing) -> Size:
    """What the run may have cost beyond what is charged for it."""
    run, _ = show_run(connection, doing.text("run"), doing.by.now_ms, 1)
    more = (doing.credits("incurred") or run.drawn_micro) - run.drawn_micro
    return Size(micro=max(run.left_micro - max(more, 0), 0))


def _override_command(doing: Doing) -> list[str]:
    most, until = _most(doing), doing.time("until")
    found = ["org", "override", doing.text("id")]
    found += [] if most is None else ["--max-concurrent", str(most)]
    found += ["--never-halt"] if doing.values["never_halt"] == "yes" else []
    return [*found, *([] if until is None else ["--until", show_time(until)])]


def _end_override(connection: sa.Connection, doing: Doing) -> Done:
    org = doing.text("id")
    orgs.end_override(connection, org, doing.by)
    return Done(f"{org}: the provider's word counts again; the next tick asks for it")


def _run(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    run, _ = show_run(connection, doing.text("run"), doing.by.now_ms, 1)
    return [
        Fact("State", run.state),
        Fact("Drawn", figures.exact(run.drawn_micro)),
        Fact("Held", figures.exact(run.left_micro)),
    ]


def _release(connection: sa.Connection, doing: Doing) -> Done:
    key, micro = doing.text("run"), doing.credits("incurred")
    done = executions.release(connection, key, None if micro is None else Cost(micro), doing.by)
    run = done.drawn.reservation
    return Done(f"{key}: {run.state}; it cost {show_credits(run.drawn_micro)} credits in all")


def _release_command(doing: Doing) -> list[str]:
    micro = doing.credits("incurred")
    return ["execution", "release", doing.text("run"), *([] if micro is None else ["--incurred", type_credits(micro)])]


def _cell(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    return [Fact(doing.text("id"), url_of_cell(connection, doing.text("id")) or "no URL")]


def _set_cell(connection: sa.Connection, doing: Doing) -> Done:
    cell, place = doing.text("id"), doing.values["url"].strip()
    try:
        cells.set_cell(connection, cell, place, doing.by, new=doing.values["new"] == "yes")
    except UsageError as error:
        if "URL" in str(error):
            raise WrongField("url", str(error)) from None
        raise
    return Done(f"{cell}: {place}; it is called only where each machine's settings allow its origin")


def _remove_cell(connection: sa.Connection, doing: Doing) -> Done:
    cell = doing.text("id")
    was = cells.remove_cell(connection, cell, doing.by)
    return Done(f"{cell}: removed; before: {was}")


CELL: Final = Field("id", "Cell")
OVERRIDE: Final = Action(
    "org-override",
    "Override limits",
    (
        ORG,
        Field("never_halt", "Not halted, whatever the balance", "choice", choices=YES),
        Field("max_concurrent", "Sandboxes at once", "number", "Whatever the plan says.", optional=True),
        Field(
            "until", "Until", "time", "2026-12-31, or +30d; until it is undone where it is left empty.", optional=True
        ),
    ),
    _override,
    _limits,
    _override_command,
    lambda doing: url("/console/org", id=doing.text("id"), tab="halts"),
    "Your word wins over the provider's at once. What is left empty stays as it was said before.",
    size=_override_size,
)
END_OVERRIDE: Final = Action(
    "org-override-end",
    "End the override",
    (ORG,),
    _end_override,
    _limits,
    lambda doing: ["org", "override", doing.text("id"), "--undo"],
    lambda doing: url("/console/org", id=doing.text("id"), tab="halts"),
    "The provider's word counts again.",
)
RELEASE: Final = Action(
    "run-release",
    "Give the run up",
    (
        Field("run", "Run"),
        Field(
            "incurred",
            "What it cost all the same",
            "credits",
            "In all; what it drew, where it is empty.",
            optional=True,
        ),
    ),
    _release,
    _run,
    _release_command,
    lambda doing: url("/console/run", key=doing.text("run")),
    "Its hold is free again; what it drew or incurred is charged.",
    size=_release_size,
)
SET_CELL: Final = Action(
    "cell-set",
    "Say where a cell listens",
    (
        CELL,
        Field("url", "Its URL", hint="https://cell-1.internal:8443; /admin/halt-org is added."),
        Field("new", "It may be one of which nothing is known yet", "choice", choices=YES),
    ),
    _set_cell,
    _cell,
    lambda doing: [
        "cell", "set", doing.text("id"), doing.values["url"].strip(),
        *(["--new"] if doing.values["new"] == "yes" else []),
    ],
    lambda _doing: "/console/cells",
    role="admin",
)  # fmt: skip
REMOVE_CELL: Final = Action(
    "cell-remove",
    "Forget a cell",
    (CELL,),
    _remove_cell,
    _cell,
    lambda doing: ["cell", "remove", doing.text("id")],
    lambda _doing: "/console/cells",
    "It is refused while sandboxes or halts need it.",
    role="admin",
)
ACTIONS: Final = (OVERRIDE, END_OVERRIDE, RELEASE, SET_CELL, REMOVE_CELL)
