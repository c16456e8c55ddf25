"""A person's word about pushes: by their keys, or all that a filter finds, with the count that was seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.errors import Refused
from drawdown.server.console.acting.action import (
    Action,
    Doing,
    Done,
    Fact,
    Field,
    Look,
    Size,
    WrongField,
    evidence_of,
    size_of,
)
from drawdown.server.console.frame.templates import url
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.actions import Chosen
from drawdown.worker.push.rows import find_pushes
from drawdown.worker.usage.withdrawals import worth_of_pushes

RETRIED: Final = ("due", "rejected")
PROVEN: Final = ("in_doubt", "rejected")


def _choosing(states: Sequence[str]) -> tuple[Field, ...]:
    """By which pushes are chosen."""
    words = [("", "by their keys alone"), *((one, f"all that are {one.replace('_', ' ')}") for one in states)]
    seen = "It is refused unless it is so many."
    return (
        Field("keys", "Pushes", hint="Keys, one a line; or leave it empty and choose below.", optional=True, many=True),
        Field("state", "Or choose", "choice", choices=words, optional=True, unless="keys"),
        Field("org", "Of the organisation", optional=True, unless="keys"),
        Field("provider", "At the provider", optional=True, unless="keys"),
        Field("error", "Whose last error holds", optional=True, unless="keys"),
        Field("expect", "How many you saw", "number", seen, optional=True, unless="keys"),
    )


def _chosen(doing: Doing, expect: int | None = None) -> Chosen:
    state = doing.values.get("state", "")
    names = doing.texts("keys") or None
    return Chosen(
        names, [state] if state else None, doing.text("org"), doing.text("provider"), doing.text("error"), expect
    )


def _find(connection: sa.Connection, doing: Doing, states: Sequence[str]) -> list[str]:
    found = _chosen(doing, doing.number("expect")).find(connection, states)
    if not found:
        raise Refused("no push is like that")
    return found


def _options(doing: Doing) -> list[str]:
    chosen, expect = _chosen(doing), doing.number("expect")
    found = list(chosen.keys or ())
    for state in chosen.states or ():
        found += ["--state", state]
    for name, value in (("org", chosen.org), ("provider", chosen.provider), ("error", chosen.error)):
        found += [f"--{name}", value] if value else []
    return [*found, *([] if expect is None else ["--expect", str(expect)])]


def _standing(states: Sequence[str]) -> Look:
    def look(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
        chosen = _chosen(doing)
        keys = chosen.find(connection, states)
        there = find_pushes(connection, keys)
        return [Fact(key, there[key].state.replace("_", " ")) for key in sorted(there)]

    return look


def _worth(connection: sa.Connection, doing: Doing) -> Size:
    """Of a word on what became of them: whoever says it charges them again, or lets them go."""
    keys = _find(connection, doing, PROVEN)
    return size_of(worth_of_pushes(connection, keys), len(keys))


def _sized(states: Sequence[str]) -> Callable[[sa.Connection, Doing], Size]:
    def size(connection: sa.Connection, doing: Doing) -> Size:
        return Size(rows=len(_find(connection, doing, states)))

    return size


def _place(doing: Doing) -> str:
    keys = doing.texts("keys")
    return url("/console/push", key=keys[0]) if len(keys) == 1 else "/console/pushes"


def _retry(connection: sa.Connection, doing: Doing) -> Done:
    done = pushes.retry(connection, _find(connection, doing, RETRIED), doing.by)
    return Done(f"{len(done):,} will be sent again by the next tick; what was rejected under its next revision")


def _resolve(connection: sa.Connection, doing: Doing) -> Done:
    accepted, evidence = doing.values["outcome"] == "accepted", evidence_of(doing)
    work = pushes.resolve_accepted if accepted else pushes.void
    done = work(connection, _find(connection, doing, PROVEN), doing.by, evidence)
    return Done(f"{len(done):,} {'accepted' if accepted else 'voided; what they held is owed again'}")


def _void(connection: sa.Connection, doing: Doing) -> Done:
    also = doing.values["although"] == "yes"
    if also and not doing.texts("keys"):
        raise WrongField("although", "name each push that was accepted: no filter finds those")
    keys = _find(connection, doing, PROVEN)
    done = pushes.void(connection, keys, doing.by, evidence_of(doing), although_accepted=also)
    return Done(f"{len(done):,} voided; the next tick seals what they held")


EVIDENCE: Final = Field("evidence", "Evidence", hint="What shows it: their console, a ticket. It is kept for good.")
RETRY: Final = Action(
    "push-retry",
    "Send again",
    _choosing(RETRIED),
    _retry,
    _standing(RETRIED),
    lambda doing: ["push", "retry", *_options(doing)],
    _place,
    "What is due is sent at once, under its own key. What was rejected is voided, and sealed anew by the next tick.",
    size=_sized(RETRIED),
)
RESOLVE: Final = Action(
    "push-resolve",
    "Say what became of it",
    (
        *_choosing(PROVEN),
        Field(
            "outcome",
            "The provider",
            "choice",
            choices=[
                ("", "choose one"), ("accepted", "has it: accepted"), ("absent", "does not have it: void it"),
            ],
        ),
        EVIDENCE,
    ),
    _resolve,
    _standing(PROVEN),
    lambda doing: [
        "push", "resolve", *_options(doing), f"--{doing.values['outcome']}", "--evidence", evidence_of(doing),
    ],
    _place,
    "A push in doubt was sent, and nobody knows what became of it. Look in the provider's console first.",
    size=_worth,
)  # fmt: skip
VOID: Final = Action(
    "push-void",
    "Void",
    (
        *_choosing(PROVEN),
        EVIDENCE,
        Field(
            "although",
            "One that was accepted",
            "choice",
            "Lost or given back over there since.",
            choices=[("no", "not among them"), ("yes", "may be among them")],
        ),
    ),
    _void,
    _standing(PROVEN),
    lambda doing: [
        "push", "void", *_options(doing), "--evidence", evidence_of(doing),
        *(["--although-accepted"] if doing.values["although"] == "yes" else []),
    ],
    _place,
    "For what never reached its provider, or was lost or given back there: it is owed again, under its next revision.",
    size=_worth,
)  # fmt: skip
ACTIONS: Final = (RETRY, RESOLVE, VOID)
