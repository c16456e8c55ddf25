"""The errors that Drawdown raises on purpose.

A message names the fault, its place and the next step.

Guarantee: `exit_status` is the exit status of the command, and always a value of `Exit`. `code` is for programs, and
stays the same in later versions.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """The exit status of a command, or of a tick that is called by its URL."""

    SETTLED = 0
    PERSON = 1
    USAGE = 2
    LEFT = 75
    """The status EX_TEMPFAIL of sysexits.h, after which schedulers retry."""


def worst(statuses: Iterable[int]) -> int:
    """Return the most important status of several.

    The order is PERSON, USAGE, LEFT, SETTLED.
    """
    found = set(statuses)
    return next((status for status in (Exit.PERSON, Exit.USAGE, Exit.LEFT) if status in found), Exit.SETTLED)


MEANINGS: Final = {
    Exit.SETTLED: "all settled, or done",
    Exit.LEFT: "work is left for the next tick, or a retry can succeed",
    Exit.PERSON: "a person is needed, or a rule refused the command",
    Exit.USAGE: "wrong usage; nothing was changed",
}


def explain_race(noun: str, name: str) -> str:
    """Return the message for an object that another call just created.

    This call did not find the object before. `noun`: the kind of the object, such as `backfill`. `name`: its id.
    """
    return f"cannot use the {noun} {name!r} yet: another call just created it. Try again"


class DrawdownError(Exception):
    """An error that Drawdown raises on purpose.

    `step`: the step of the permission order that refused; None if the error is not part of that order.
    """

    exit_status = Exit.PERSON
    code = "failed"
    step: str | None = None


class UsageError(DrawdownError):
    """Raised if a command or a value is wrong. Drawdown did not change anything.

    `at`: the name of the wrong value, as a program sends it; None if the error is not about a single value.
    """

    exit_status = Exit.USAGE
    code = "bad_value"

    def __init__(self, text: str, *, code: str = "bad_value", at: str | None = None) -> None:
        super().__init__(text)
        self.code, self.at = code, at


_SHORT: Final = {"organisation": "org", "customer": "org", "API": "key", "top-up": "topup"}
"""The first word of a noun in a code, for nouns that codes abbreviate."""


class UnknownId(UsageError):
    """Raised if an id does not exist, probably because it is mistyped.

    `noun`: the kind of the id. `near`: the known id that it probably means.
    """

    def __init__(self, text: str, noun: str, near: str | None = None) -> None:
        first = noun.partition(" ")[0]
        super().__init__(text, code=f"unknown_{_SHORT.get(first, first)}")
        self.noun, self.near = noun, near


class Refused(DrawdownError):
    """Raised if a rule forbids the requested change. Drawdown did not make the change."""

    code = "refused"


class DatabaseNotReady(DrawdownError):
    """Raised if the database is not usable.

    For example, it is missing, not migrated, newer than this program or read-only, or it refuses the user.

    `where`: the database, without its user or password (None: not known). Show it only to a person who runs a command,
    never on a page.
    """

    code = "database"
    where: str | None = None


class DatabaseBusy(DrawdownError):
    """Raised if the database is locked or busy, or the connection was lost.

    An uncommitted change did not happen. Try again.
    """

    exit_status = Exit.LEFT
    code = "database"


class StorageFull(DatabaseBusy):
    """Raised if a disk is full.

    Uncommitted changes are lost, and retries fail until a person frees space.
    """

    exit_status = Exit.PERSON
    code = "storage_full"


class LockHeld(DatabaseBusy):
    """Raised if another transaction held a lock for longer than the wait.

    The transaction was rolled back, or only its part within `waiting_at_most`.
    """


class AnswerLost(DatabaseBusy):
    """Raised if the connection was lost during the commit.

    It is unknown whether the change is stored.

    `again`: the next step. You can run most commands again. A command that has another effect the second time sets its
    own text.
    """

    code = "answer_lost"

    def __init__(self, why: str, again: str = "you can safely repeat the command") -> None:
        super().__init__(
            "the connection was lost while the database committed, so the change may or may not be stored; "
            f"{again} ({why})"
        )
        self.why = why


class ClockDoubted(DrawdownError):
    """Raised by rule S9 if the clocks disagree, or time jumped by more than a day.

    Sealing waits for a person.
    """

    code = "clock_doubted"
