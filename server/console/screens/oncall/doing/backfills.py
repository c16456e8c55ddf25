"""A backfill is closed, by the hash of what it showed, or taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.errors import Refused
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field, size_of
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.templates import url
from drawdown.worker.usage import backfills
from drawdown.worker.usage.backfills import show_backfill
from drawdown.worker.usage.withdrawals import judge_backfill, worth_of_backfill

MOST_REVERTED: Final = 5_000
"""Events that one form takes back, in one transaction; more by the command line, which goes portion by portion."""


def _backfill(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    found = show_backfill(connection, doing.text("backfill"))
    return [
        Fact("State", found.state),
        Fact("Events", figures.count(found.events)),
        Fact("Of them withdrawn", figures.count(found.withdrawn)),
    ]


def _close(connection: sa.Connection, doing: Doing) -> Done:
    name = doing.text("backfill")
    done = backfills.close(connection, name, doing.text("hash"), doing.by)
    was_closed, price = done.backfill.state == "closed", figures.credits(done.price_micro)
    more = "; it was so before" if was_closed else f", {price} credits by our rate card"
    return Done(f"{name}: closed; {show_backfill(connection, name).went_in}{more}")


def _revert(connection: sa.Connection, doing: Doing) -> Done:
    name, done = doing.text("backfill"), False
    if show_backfill(connection, name).events > MOST_REVERTED:
        raise Refused(f"{name} holds more than {MOST_REVERTED:,} events: drawdown backfill revert does it in portions")
    judged = judge_backfill(connection, name)
    while not done:
        _, done = backfills.revert(connection, name, doing.by, judged)
    total = show_backfill(connection, name).withdrawn  # also by a command that was ended half-way
    return Done(f"{name}: reverted; {total:,} events withdrawn, and the next tick gives back what was billed for them")


CLOSE: Final = Action(
    "backfill-close",
    "Close the backfill",
    (Field("backfill", "Backfill"), Field("hash", "Hash of what it showed")),
    _close,
    _backfill,
    lambda doing: ["backfill", "close", doing.text("backfill"), "--hash", doing.text("hash")],
    lambda doing: url("/console/backfill", key=doing.text("backfill")),
    "What was shown becomes usage: the next tick bills it as usage that came late.",
)
REVERT: Final = Action(
    "backfill-revert",
    "Revert the backfill",
    (Field("backfill", "Backfill"),),
    _revert,
    _backfill,
    lambda doing: ["backfill", "revert", doing.text("backfill")],
    lambda doing: url("/console/backfill", key=doing.text("backfill")),
    "All that went in by it is withdrawn, for good. What was never closed is forgotten.",
    size=lambda connection, doing: size_of(worth_of_backfill(connection, doing.text("backfill"))),
)
ACTIONS: Final = (CLOSE, REVERT)
