"""Define the request of an execution, its checks, and the results of calls.

Guarantee: pure. This module does not access the database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from drawdown.ledger import accounts
from drawdown.ledger.draws import Cost, Drawn
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.own_keys import own_name
from drawdown.ledger.reservations import Denied, Hold, Overage, Reservation, SettledBy
from drawdown.schema.audit import By
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import quote_value
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS

LEAST_LIFE_MS: Final = MINUTE_MS
"""Shortest duration of a reservation, in milliseconds."""
MOST_LIFE_MS: Final = 30 * DAY_MS
"""Longest duration of a reservation, in milliseconds."""
MOST_FEATURES: Final = 100
"""Most features in one estimate or cost."""
MOST_SANDBOXES: Final = 100
"""Sandboxes that one execution can name."""
USE: Final = "guard:"
"""The prefix of the keys of executions that belong to uses of the guard."""


@dataclass(frozen=True)
class Request:
    """The request of an execution.

    The estimate is in micro-credits (`amount_micro`), or in base units by feature (`quantities`). `project`, `subject`
    and `action` are labels. `overage`: the treatment of cost above the reservation. `for_ms`: the duration of the
    reservation in milliseconds (None: the default, which is longer for `queued` executions). `supplier`: the party that
    gets a share (None: without a supplier). `payer`: the wallet that pays (None: the organisation's own). `settled_by`:
    how an execution with sandboxes is charged: by the samples of the sandboxes (`metering`), or by the cost that the
    caller sends (`receipt`).
    """

    org_id: str
    amount_micro: int | None = None
    quantities: Mapping[str, int] | None = None
    project: str | None = None
    subject: str | None = None
    action: str | None = None
    overage: Overage = "charge"
    for_ms: int | None = None
    queued: bool = False
    supplier: str | None = None
    payer: str | None = None
    settled_by: SettledBy | None = None
    sandboxes: tuple[str, ...] = ()

    @property
    def named(self) -> list[str]:
        """Return the ids of the named sandboxes, sorted and without duplicates."""
        return sorted(set(self.sandboxes))


def require_key(key: str) -> None:
    """Refuse an invalid execution key. Errors: UsageError."""
    if not is_clean_id(key):
        raise UsageError(
            f"invalid execution key {quote_value(key)}: expected 1 to 200 characters without control characters"
        )


def fingerprint(request: Request) -> str:
    """Return a hash of a request, in hexadecimal.

    The hash distinguishes a repeated call from another request under the same key. Without a supplier, a payer or
    sandboxes, it equals the hash of versions that lacked these fields.
    """
    quantities = None if request.quantities is None else dict(request.quantities)
    content = {**vars(request), "quantities": quantities, "sandboxes": request.named}
    for name in ("supplier", "payer", "settled_by", "sandboxes"):
        if not content[name] or (name == "settled_by" and not request.sandboxes):
            del content[name]
    said = json.dumps(content, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def differing(before: Reservation, request: Request) -> list[str]:
    """Return the fields in which a request differs from an accepted execution.

    Both have the same key. If the execution belongs to another organisation, return only `organisation`, because the
    caller must not see that execution.
    """
    if before.org_id != request.org_id:
        return ["organisation"]
    payer = None if before.payer_number is None else before.customer_id
    own = payer is None and request.payer == before.customer_id  # an own wallet as payer is the same as no payer
    pairs = {
        "project": (before.project, request.project),
        "subject": (before.subject, request.subject),
        "action": (before.action, request.action),
        "overage": (before.overage, request.overage),
        "supplier": (before.supplier, request.supplier),
        "payer": (payer, None if own else request.payer),
        "sandboxes": (before.named, request.named),
        "settled_by": (before.settled_by, request.settled_by or "receipt"),
    }
    return [name for name, (was, now) in pairs.items() if was != now] or ["estimate or duration"]


def require_life(for_ms: int | None) -> None:
    """Refuse a duration that is not from LEAST_LIFE_MS to MOST_LIFE_MS.

    Errors: UsageError.
    """
    if for_ms is not None and not LEAST_LIFE_MS <= for_ms <= MOST_LIFE_MS:
        raise UsageError(f"invalid duration {for_ms / SECOND_MS:,} s of a reservation: expected 1 minute to 30 days")


def require_sane(request: Request) -> None:
    """Refuse an invalid request.

    Errors: UsageError; Denied for too many sandboxes, or if `settled_by` does not fit the other fields.
    """
    _require_said(request)
    for label in (request.project, request.subject, request.action):
        if label is not None and not is_clean_id(label):
            raise UsageError(
                f"invalid project, subject or action {quote_value(label)}: expected 1 to 200 characters without "
                "control characters"
            )
    require_life(request.for_ms)
    if request.amount_micro is not None and request.quantities is not None:
        raise UsageError("specify the estimate either in credits or in quantities of features, not both")
    if request.amount_micro is not None and not 0 < request.amount_micro <= MAX_ENTRY_MICRO:
        raise bad_estimate()
    require_quantities(request.quantities)


def bad_estimate() -> UsageError:
    """Return the error of an invalid estimate."""
    text = "invalid estimate: expected more than 0, and at most 1,000,000,000 credits"
    return UsageError(text, code="bad_estimate")


def _require_said(request: Request) -> None:
    if any(not is_clean_id(name) for name in request.sandboxes):
        wrong = next(name for name in request.sandboxes if not is_clean_id(name))
        raise UsageError(
            f"invalid sandbox id {quote_value(wrong)}: expected 1 to 200 characters without control characters"
        )
    if len(request.named) > MOST_SANDBOXES:
        raise Denied(
            "too_many_sandboxes",
            f"too many sandboxes: {len(request.named):,}. An execution can name at most {MOST_SANDBOXES}. Accept "
            "several executions",
        )
    if request.sandboxes and request.settled_by is None:
        raise Denied(
            "settled_by_missing",
            "settled_by is missing. If samples of the sandboxes charge the execution, pass 'metering'. Otherwise, pass "
            "'receipt'",
        )
    if request.settled_by != "metering":
        return
    if not request.sandboxes:
        raise Denied("no_sandbox", "metering cannot settle an execution without sandboxes. Name at least one sandbox")
    if request.supplier is not None or request.payer is not None or request.overage != "charge":
        raise Denied(
            "metering_alone",
            "if metering settles an execution, samples charge the organisation's own wallet. Omit the supplier and "
            "the payer, and use the overage `charge`",
        )


def require_number(number: int) -> None:
    """Refuse an invalid number of a charge. Errors: UsageError."""
    if not 0 <= number < 2**31:
        raise UsageError(f"invalid number {number} of a charge: expected 0 to 2,147,483,647")


def require_quantities(quantities: Mapping[str, int] | None) -> None:
    """Refuse invalid quantities, or too many of them. Errors: UsageError."""
    if quantities is None:
        return
    if not 0 < len(quantities) <= MOST_FEATURES:
        raise UsageError(f"invalid quantities of {len(quantities):,} features: expected 1 to {MOST_FEATURES} features")
    if any(not 0 <= quantity < 2**53 for quantity in quantities.values()):
        wrong = next(quantity for quantity in quantities.values() if not 0 <= quantity < 2**53)
        raise UsageError(f"invalid quantity {quote_value(wrong)}: expected a whole number from 0 to 2^53 - 1")


def sane_cost(cost: Cost) -> Cost:
    """Return a cost that has either credits or quantities.

    Errors: UsageError if it has both or neither, or for invalid quantities.
    """
    if (cost.amount_micro is None) == (cost.quantities is None):
        raise UsageError("specify the cost either in credits or in quantities of features, not both")
    require_quantities(cost.quantities)
    return cost


@dataclass(frozen=True)
class Preview:
    """The result of a preview of an execution, in micro-credits.

    `step`, `code`, `reason`: the step that refuses, and its error (None: it is allowed). `step` is also None if a rule
    refuses that is not one of the steps. `customer_id`: the customer that would pay. `amount_micro`: the amount that
    would be reserved. `hold`: the kind of the reservation, `wallet`, `local` or `declared`. These three are None if a
    step before credits refuses. `available_micro`: the available credit (None: unknown, unlimited, or of another
    payer).
    """

    allowed: bool
    step: str | None
    code: str | None
    reason: str | None
    customer_id: str | None
    amount_micro: int | None
    available_micro: int | None
    hold: Hold | None = None
    balance_read_ms: int | None = None
    """The time when the last read of the provider's balance began.

    None: a wallet pays, the balance was never read, or a step before credits refuses.
    """


@dataclass(frozen=True)
class RequestedExecution:
    """An execution that a program requests.

    `tells_names`: the caller may learn names of any organisation. `own`: the API key is bound to its organisation, so
    the keys of its executions belong to that organisation.
    """

    key: str
    request: Request
    actor: str
    reason: str
    tells_names: bool = True
    own: bool = False

    @property
    def names(self) -> tuple[str, str]:
        """Return the key under which the execution is stored, and an alternative.

        The alternative is the key for the other kind of API key, bound or unbound.
        """
        mine = own_name(self.request.org_id, self.key)
        return (mine, self.key) if self.own else (self.key, mine)

    def by(self, now_ms: int) -> By:
        return By(now_ms, self.actor, self.reason, "http")


@dataclass(frozen=True)
class Accepted:
    """The result of an acceptance.

    `repeated`: True if the reservation existed before.

    `wallet`: the wallet now, or the rest of the balance that a provider keeps (None: that balance is unlimited, or does
    not exist). `balance_read_ms`: the time when the read of that balance began (None: a wallet pays, or it was never
    read).
    """

    reservation: Reservation
    repeated: bool
    wallet: accounts.Wallet | None
    balance_read_ms: int | None = None


@dataclass(frozen=True)
class Settled:
    """The result of a charge or an end, and the wallet now, as in `Accepted`."""

    drawn: Drawn
    wallet: accounts.Wallet | None
    balance_read_ms: int | None = None
