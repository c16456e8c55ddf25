"""Every error this project raises on purpose. The message names the fault, its place and the next step.

Guarantee: `exit_status` is the status that the command line ends with, one of `Exit`. No other number is. `code` is
for programs to decide by: its text changes no more.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """The exit status of a command, also of a tick that was called by its URL."""

    SETTLED = 0
    PERSON = 1
    USAGE = 2
    LEFT = 75
    """EX_TEMPFAIL of sysexits.h: schedulers know it."""


def worst(statuses: Iterable[int]) -> int:
    """Return the most important status of several: a person is needed, something is left, all is settled."""
    found = set(statuses)
    return next((status for status in (Exit.PERSON, Exit.USAGE, Exit.LEFT) if status in found), Exit.SETTLED)


MEANINGS: Final = {
    Exit.SETTLED: "all settled, or done",
    Exit.LEFT: "work is left for the next tick, or a retry can succeed",
    Exit.PERSON: "a person is needed, or a rule refused the command",
    Exit.USAGE: "wrong usage; nothing was changed",
}


class DrawdownError(Exception):
    """An error that a person has to look at. `step`: the part of the permission order that refused, if there is one."""

    exit_status = Exit.PERSON
    code = "failed"
    step: str | None = None


class UsageError(DrawdownError):
    """The command, or a value given to it, is wrong; nothing was changed.

    `at`: the name of the wrong value, as a program sends it; None: it is not a single value.
    """

    exit_status = Exit.USAGE
    code = "bad_value"

    def __init__(self, text: str, *, code: str = "bad_value", at: str | None = None) -> None:
        super().__init__(text)
        self.code, self.at = code, at


_SHORT: Final = {"organisation": "org", "customer": "org", "API": "key", "top-up": "topup"}
"""The first word of a noun, as it is in a code."""


class UnknownId(UsageError):
    """An id that names nothing here: mistyped, most likely. `noun` is what it was to name, `near` what was probably
    meant."""

    def __init__(self, text: str, noun: str, near: str | None = None) -> None:
        first = noun.partition(" ")[0]
        super().__init__(text, code=f"unknown_{_SHORT.get(first, first)}")
        self.noun, self.near = noun, near


class Refused(DrawdownError):
    """A rule forbids the requested change; nothing was changed."""

    code = "refused"


class DatabaseNotReady(DrawdownError):
    """The database is missing, not migrated, newer than this program, or read-only.

    `where`: which database, without its user or password. Show it to a person who runs a command, and on no page.
    """

    code = "database"
    where: str | None = None


class DatabaseBusy(DrawdownError):
    """The database is locked or went away. A change that was not committed did not happen; try again."""

    exit_status = Exit.LEFT
    code = "database"


class StorageFull(DatabaseBusy):
    """A disk is full. Nothing uncommitted was kept, and no later try helps before a person frees some space."""

    exit_status = Exit.PERSON
    code = "storage_full"


class LockHeld(DatabaseBusy):
    """Another transaction held a lock for longer than the wait. Nothing of this transaction was kept."""


class AnswerLost(DatabaseBusy):
    """The connection was lost during the commit: the change may have been kept, or not.

    `again` states what to do. Most commands can be run again. A command that would do something else the second time
    gives its own text.
    """

    code = "answer_lost"

    def __init__(self, why: str, again: str = "you can safely repeat the command") -> None:
        super().__init__(
            "the connection was lost while the database committed, so the change may or may not be stored; "
            f"{again} ({why})"
        )
        self.why = why


class ClockDoubted(DrawdownError):
    """Rule S9: the clocks disagree, or time jumped by more than a day. Sealing waits for a person."""

    code = "clock_doubted"
