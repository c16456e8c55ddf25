"""Every error this project raises on purpose. The message says what, where and what next.

Guarantee: `exit_status` is what the command line ends with: 75 when trying again later may help by itself,
1 when a person is needed, 2 when the command was called wrongly.
"""


class DrawdownError(Exception):
    """Something a person has to look at."""

    exit_status = 1


class UsageError(DrawdownError):
    """The command, or a value given to it, is wrong; nothing was changed."""

    exit_status = 2


class Refused(DrawdownError):
    """A rule forbids the change that was asked for; nothing was changed."""


class DatabaseNotReady(DrawdownError):
    """The database is missing, not migrated, newer than this program, or read-only."""


class DatabaseBusy(DrawdownError):
    """The database is locked or went away. Whatever was not committed did not happen; try again."""

    exit_status = 75


class ClockDoubted(DrawdownError):
    """Rule S9: the clocks disagree, or time jumped by more than a day. Sealing waits for a person."""
