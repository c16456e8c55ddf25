"""What acts on runs come to, and what a program asks for."""

from __future__ import annotations

from dataclasses import dataclass

from drawdown.ledger import accounts
from drawdown.ledger.runs.draws import Drawn
from drawdown.ledger.runs.own_keys import own_name
from drawdown.ledger.runs.reservations import Hold, Reservation
from drawdown.schema.audit import By
from drawdown.worker.executions.request import Request


@dataclass(frozen=True)
class Preview:
    """Whether a run would be accepted now, what refuses it, and what would be held, in micro-credits. What another
    payer has is not said."""

    allowed: bool
    step: str | None
    code: str | None
    reason: str | None
    customer_id: str | None
    amount_micro: int | None
    available_micro: int | None
    hold: Hold | None = None
    balance_read_ms: int | None = None
    """Where the hold would lie, and, of a balance that a provider keeps, when its last read began."""


@dataclass(frozen=True)
class Asked:
    """A run that is asked for by a program, and by whom. `tells_names`: whoever asks may learn names of any
    organisation. `own`: by an API key that is bound to its organisation, whose keys of runs are its own."""

    key: str
    request: Request
    actor: str
    reason: str
    tells_names: bool = True
    own: bool = False

    @property
    def names(self) -> tuple[str, str]:
        """What the run is kept as, and what it is kept as where the other kind of API key asked for it before."""
        mine = own_name(self.request.org_id, self.key)
        return (mine, self.key) if self.own else (self.key, mine)

    def by(self, now_ms: int) -> By:
        return By(now_ms, self.actor, self.reason, "http")


@dataclass(frozen=True)
class Accepted:
    """A reservation, whether it was there before, and its wallet now; or, of a balance that a provider keeps, what that
    leaves by its last read (None: it has no end), and when that read began."""

    reservation: Reservation
    repeated: bool
    wallet: accounts.Wallet | None
    balance_read_ms: int | None = None


@dataclass(frozen=True)
class Settled:
    """What an act came to, and the wallet now, as in `Accepted`."""

    drawn: Drawn
    wallet: accounts.Wallet | None
    balance_read_ms: int | None = None
