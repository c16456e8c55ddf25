"""The states of a push.

The outbox, statements, lists, backlogs, metrics, the command line and the console derive their states from this module.
To add a state, add it to STATES, and to the type `Open` or `Settled`. If the state is open, also add it to
`OpenPushes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Open: TypeAlias = Literal["due", "queued", "in_doubt", "rejected", "awaiting_credit"]
Settled: TypeAlias = Literal["accepted", "voided", "carried", "shadow"]


@dataclass(frozen=True)
class PushState:
    """The presentation of a state. A settled state does not have a presentation.

    `words`: its name in sentences of the command line. `title`, `meaning`, `tone`: its tile in the console. `tone` is
    `bad` if a person is needed, and `warn` if work waits. `is_stored`: False if statements derive the state from
    another state.
    """

    words: str = ""
    title: str = ""
    meaning: str = ""
    tone: str = ""
    is_stored: bool = True


STATES: Final[dict[Open | Settled, PushState]] = {
    "due": PushState("due", "Due", "to send or retry", "warn"),
    "queued": PushState("queued", "Queued", "at a provider, not charged yet", "warn"),
    "in_doubt": PushState("in doubt", "In doubt", "sent, outcome unknown", "bad"),
    "accepted": PushState(),
    "rejected": PushState("rejected", "Rejected", "proven not charged", "bad"),
    "awaiting_credit": PushState(
        "waiting for credit", "Awaiting credit", "billed when credit arrives", "warn", is_stored=False
    ),
    "voided": PushState(),
    "carried": PushState(),
    "shadow": PushState(),
}
"""All states, in the order in which texts list them."""
OPEN: Final = {name: state for name, state in STATES.items() if state.words}
"""States of an open push: its quantity can still be sent, or a person must record its outcome."""
OPEN_STORED: Final = {name: state for name, state in OPEN.items() if state.is_stored}
"""Open states that the outbox stores."""


@dataclass(frozen=True)
class OpenPushes:
    """Numbers of open pushes by state."""

    due: int = 0
    queued: int = 0
    in_doubt: int = 0
    rejected: int = 0
    awaiting_credit: int = 0
    """Rejected pushes that Drawdown bills again once the provider shows credit, without a person."""


def sql_list(names: Iterable[str]) -> str:
    """Return names as a list of SQL, such as `('due', 'queued')`."""
    return "('" + "', '".join(names) + "')"
