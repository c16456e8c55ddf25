"""The rules of a flip: whether it may be done, from the facts about both providers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from drawdown.providers.protocol import CustomerRead, CustomerState, NoCustomer, ReadFailed
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.engine.context import Context


@dataclass(frozen=True)
class Wish:
    """One organisation to assign. A customer of None stands for the organisation's own id, or for none yet where the
    provider has ids of its own. `line` is where it stands in a file."""

    org_id: str
    customer_id: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class FlipOptions:
    """What holds for all organisations of one command."""

    provider: str
    from_ms: int | None = None
    dry_run: bool = False
    allow_halt: bool = False
    unchecked: bool = False
    each_alone: bool = False
    """A problem stops only its own organisation (of a file, or of all that nobody bills), not all of them."""
    new: bool = False
    """Also organisations, and customers of the embedded ledger, of which nothing is known yet."""


@dataclass(frozen=True)
class Flip:
    """What moved, or would: `open_pushes` of the old biller stay with it, and so does `credit_behind_micro`."""

    org_id: str
    customer_id: str
    was: str | None = None
    customer_was: str | None = None
    open_pushes: Mapping[str, int] = field(default_factory=dict)
    credit_behind_micro: int | None = None
    credit_there_micro: int | None = None
    start_ms: int | None = None
    mended_s: int = 0
    mended_units: int = 0
    before_start_s: int = 0
    before_start_units: int = 0
    already: bool = False
    problem: str | None = None
    away: bool = False
    """The problem is that the provider did not say: it may do so later."""
    note: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class FlipCandidate:
    """How one organisation stands before the flip."""

    wish: Wish
    customer_id: str
    provider: str | None
    customer_before: str | None
    is_halted: bool
    already: bool
    open_pushes: Mapping[str, int]
    unknown: str | None = None


def judge(
    candidate: FlipCandidate,
    options: FlipOptions,
    there: Mapping[tuple[str, str], CustomerRead],
    behind: Mapping[tuple[str, str], CustomerRead],
    context: Context,
) -> Flip:
    """What a flip would meet: `there` is what the new biller says of its customer, `behind` what the old one does."""
    state = there.get((options.provider, candidate.customer_id))
    left = behind.get((candidate.provider or "", candidate.customer_before or ""))
    problem, note = (candidate.unknown, None) if candidate.unknown else problem_of(candidate, options, state, context)
    return Flip(
        org_id=candidate.wish.org_id,
        customer_id=candidate.customer_id,
        was=candidate.provider,
        customer_was=candidate.customer_before,
        open_pushes=candidate.open_pushes,
        credit_behind_micro=left.balance_micro if isinstance(left, CustomerState) else None,
        credit_there_micro=state.balance_micro if isinstance(state, CustomerState) else None,
        already=candidate.already,
        problem=None if candidate.already else problem,
        away=problem is not None and candidate.unknown is None and isinstance(state, ReadFailed),
        note=note,
        line=candidate.wish.line,
    )


def problem_of(
    candidate: FlipCandidate, options: FlipOptions, state: CustomerRead | None, context: Context
) -> tuple[str | None, str | None]:
    """What speaks against it, and what is worth knowing."""
    customer = candidate.customer_id
    if options.provider in EXEMPT_PROVIDERS:
        return None, "its usage is billed by nobody here from then on"
    if customer == "":
        return None, f"it has no customer at {options.provider} yet: its usage waits until one is given"
    match state:
        case None:
            return None, f"{options.provider} was not asked: it cannot be called yet"
        case NoCustomer() if not options.unchecked:
            return f"{options.provider} has no customer {customer}: make it there first, or give --customer", None
        case ReadFailed(reason) if not options.unchecked:
            return f"{options.provider} did not say how {customer} stands ({reason}): try again, or --unchecked", None
        case CustomerState(balance) if balance is not None and balance <= 0 and would_newly_halt(candidate, options):
            if not options.allow_halt:
                text = f"the customer {customer} has no credit at {options.provider}: the flip would halt it at once"
                return f"{text}; give credit there first, or --allow-halt", None
            return None, "it is halted once the flip is in force: no credit there"
    return None, None


def would_newly_halt(candidate: FlipCandidate, options: FlipOptions) -> bool:
    """Whether it runs now, under another biller."""
    return candidate.provider is not None and candidate.provider != options.provider and not candidate.is_halted
