"""Actions and lists of providers.

Guarantee: the dry run of a pause shows the usage that waits for the provider, its organisations, and its start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema import ids
from drawdown.schema.declare import (
    ID,
    WINDOW,
    Action,
    Column,
    Fact,
    Invocation,
    Listing,
    Look,
    New,
    Page,
    Providers,
    Showing,
    Undo,
    Values,
    whole,
)
from drawdown.schema.errors import Refused, UsageError, explain_race
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, typed
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import EXEMPT_PROVIDERS, MINUTE_MS
from drawdown.worker.catalog import terms
from drawdown.worker.provider import actions as providers
from drawdown.worker.provider.lists import ProviderLine, provider_lines
from drawdown.worker.provider.shadows import in_shadow
from drawdown.worker.verdict import rates
from drawdown.worker.verdict.rates import Prices, Quantity, RateRow
from drawdown.worker.verdict.rules import UNREAD_STOP_MS

SQL = queries(__file__)

MAX_RATE: Final = 10**12
"""Most millionths, and most base units, in a provider's rate."""
MOST_NAMED: Final = 5
"""Organisations that a dry run names. The dry run counts the others."""
Name = Annotated[str, ID, "Name of the provider"]
Policy = Literal["go_on", "estimate", "stop"]


def require_biller(connection: sa.Connection, known: Providers | None, name: str, what: str) -> None:
    """Refuse a provider that does not bill, or that Drawdown does not know.

    A provider is unknown if it is not installed here, and the database does not know it (see `provider_lines`).

    `what`: the consequence, for the error text. Errors: Refused for a provider that does not bill here. UnknownId for
    an unknown provider; the error names the nearest known name.
    """
    if name in EXEMPT_PROVIDERS:
        raise Refused(f"{name} does not bill usage here, so {what}. See `drawdown provider list`")
    here = set() if known is None else {*known.capabilities, *known.broken}
    if name not in here and not ids.is_known(connection, ids.PROVIDER, name):
        there = [line.provider for line in provider_lines(connection, 0)]
        ids.require_among(ids.PROVIDER, name, {*here, *there, *EXEMPT_PROVIDERS})


@dataclass(frozen=True)
class ProviderPaused:
    """The effect of a call that pauses or resumes a provider.

    `paused`: Drawdown does not send pushes to the provider now. `since_ms`: the start of the pause before the call
    (null: the provider was not paused). `was_reason`: the reason for that pause (null: the provider was not paused, or
    this call resumed it).
    """

    provider: str
    paused: bool
    since_ms: int | None
    was_reason: str | None


def _pause(connection: sa.Connection, asked: Invocation, provider: Name, *, undo: Undo = False) -> ProviderPaused:
    require_biller(connection, asked.providers, provider, "you cannot pause it")
    if undo:
        return ProviderPaused(
            provider, paused=False, since_ms=providers.resume(connection, provider, asked.by), was_reason=None
        )
    before = providers.pause(connection, provider, asked.by)
    since_ms, reason = before or (None, None)
    return ProviderPaused(provider, paused=True, since_ms=since_ms, was_reason=reason)


def _paused(done: ProviderPaused) -> str:
    if not done.paused:
        return f"{done.provider}: resumed; it had been paused since {show_time(done.since_ms)}"
    undo = typed("drawdown", "provider", "pause", done.provider, "--undo")
    was = "not paused" if done.since_ms is None else f"paused since {show_time(done.since_ms)}: {done.was_reason}"
    return f"{done.provider}: paused; before: {was}. To end the pause, run `{undo}`"


@dataclass(frozen=True)
class PolicySet:
    """A plan's policy while its provider is unreadable.

    The policy applies to organisations that are not halted. `plan` empty: every plan without its own policy. `policy`
    null: the call ended the policy. `was`: the former policy (null: not set).
    """

    provider: str
    plan: str
    policy: str | None
    was: str | None


def _when_down(
    connection: sa.Connection,
    asked: Invocation,
    provider: Name,
    *,
    policy: Annotated[
        Policy | None,
        "Policy: never halt, halt by the watch's estimates (if no policy is set), or halt after 15 minutes",
    ] = None,
    plan: Annotated[str, ID, "Plan of the customers; all other plans if omitted"] = "",
    undo: Undo = False,
    new: New = False,
) -> PolicySet:
    require_biller(connection, asked.providers, provider, "Drawdown never reads it")
    if undo == bool(policy):
        raise UsageError(f"specify either --policy ({', '.join(rates.POLICIES)}) or --undo", at="policy")
    if undo and new:
        raise UsageError("--new cannot be combined with --undo. Omit --new", at="new")
    if policy is None:
        was: str | None = providers.end_when_down(connection, provider, plan, asked.by)
    else:
        was = providers.set_when_down(connection, provider, plan, policy, asked.by, new=new)
    return PolicySet(provider, plan, policy, was)


def _sentence(done: PolicySet) -> str:
    of = f"the plan {done.plan}" if done.plan else "every other plan"
    if done.policy is None:
        now = "as for every other plan" if done.plan else rates.DEFAULT_POLICY
    else:
        stops = f" after it is unreadable for {UNREAD_STOP_MS // MINUTE_MS} min" if done.policy == "stop" else ""
        now = done.policy + stops
    return f"{done.provider}, {of}: {now}; before: {done.was or 'not set'}"


@dataclass(frozen=True)
class ProviderRateSet:
    """The rate of a feature at a provider, for estimates.

    The rate applies from the window `start_ms` on. It is `micro` millionths of the balance's unit for each
    `per_quantity` base units.
    """

    provider: str
    feature: str
    micro: int
    per_quantity: int
    start_ms: int


def _rate(
    connection: sa.Connection,
    asked: Invocation,
    provider: Name,
    feature: Annotated[str, ID, "Feature's name"],
    *,
    micro: Annotated[int, whole(0, MAX_RATE), "Millionths of the balance's unit"],
    per: Annotated[
        int, whole(1, MAX_RATE), "Number of base units for this rate: seconds, MB-seconds or events' units"
    ] = 1,
    from_ms: Annotated[int | None, WINDOW, "First window at the rate"] = None,
    new: New = False,
) -> ProviderRateSet:
    require_biller(connection, asked.providers, provider, "it does not have rates for estimates")
    told = _capabilities(asked.providers).get(provider)
    tells = told is None or told.costs
    start = providers.set_rate(
        connection, provider, feature, (micro, per), asked.by, from_ms=from_ms, new=new, tells=tells
    )
    return ProviderRateSet(provider, feature, micro, per, start)


def _capabilities(known: Providers | None) -> Mapping[str, Capabilities]:
    return {} if known is None else known.capabilities


def _rated(done: ProviderRateSet) -> str:
    each = f"{counted(done.micro, 'millionth')} per {done.per_quantity:,}"
    return f"{done.feature} at {done.provider}: {each} from {show_time(done.start_ms)} on"


# Facts for dry runs.


def _billed(connection: sa.Connection, provider: str, now_ms: int) -> Fact:
    """Return the fact about the organisations that a provider bills now.

    The fact has their number, and names the first of them.
    """
    values = {"provider": provider, "now_ms": now_ms}
    count = int(SQL.run(connection, "count_billed", values).scalar_one())
    names = [str(name) for name in SQL.run(connection, "billed", {**values, "at_most": MOST_NAMED}).scalars()]
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    return Fact("Organisations", f"{count:,}: {', '.join(names)}{more}" if count else "none")


def _facts_of_pause(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    name = values["provider"]
    require_biller(connection, asked.providers, name, "you cannot pause it")
    found = terms.paused(connection).get(name)
    rows = SQL.run(connection, "waiting", {"provider": name}).all()
    worth = Prices(connection).worth(Quantity(name, row.feature, int(row.window_ms), int(row.quantity)) for row in rows)
    since = min((int(row.window_ms) for row in rows), default=None)
    return [
        Fact("Receives usage", "yes" if found is None else f"no: paused since {show_time(found[0])}: {found[1]}"),
        _billed(connection, name, asked.by.now_ms),
        Fact("Waiting to be sent", str(worth), fixed=False),
        Fact("Used from", show_time(since) or "-", fixed=False),
    ]


def _facts_of_policy(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    found = rates.policies_of(connection, values["provider"])
    plan = values["plan"]
    now_ms = asked.by.now_ms
    span = {"provider": values["provider"], "now_ms": now_ms, "unread_ms": now_ms - UNREAD_STOP_MS}
    unread = SQL.run(connection, "unread", span).scalar_one()
    return [
        Fact(f"Plan {plan}" if plan else "Every other plan", rates.policy_for(found, plan)),
        _billed(connection, values["provider"], now_ms),
        Fact(f"Not read for {UNREAD_STOP_MS // MINUTE_MS} min", counted(int(unread), "organisation"), fixed=False),
        Fact("Charges", "no credits change"),
        Fact("From", "now"),
    ]


def _facts_of_rate(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    """Return the facts of a rate for a dry run.

    The facts are the newest rate, and the usage that was sealed since `from_ms`.
    """
    name, feature = values["provider"], values["feature"]
    since = values["from_ms"] or 0
    rows = SQL.run(connection, "of_feature", {"provider": name, "feature": feature, "from_ms": since}).all()
    worth = Prices(connection).worth(Quantity(name, feature, int(row.window_ms), int(row.quantity)) for row in rows)
    begins = min((int(row.window_ms) for row in rows), default=None)
    newest = [row for row in rates.rate_rows(connection, name) if row.feature == feature][-1:]
    return [
        Fact(
            "Newest rate",
            "".join(f"{counted(row.micro, 'millionth')} per {row.per_quantity:,}" for row in newest) or "none",
        ),
        Fact("Estimate of sealed usage", str(worth), fixed=False),
        Fact("Organisations", f"{max((int(row.orgs) for row in rows), default=0):,} at most in a window", fixed=False),
        Fact("Used from", show_time(begins) or "-", fixed=False),
    ]


# Lists.


@dataclass(frozen=True)
class ProviderRow:
    """A provider in a list.

    `state`: ready, shadow, paused, changed, dormant, broken or missing. `changed`: its settings differ from the terms
    in force. `dormant`: it lacks a key on this machine. `broken`: its settings are invalid on this machine. `missing`:
    it is not installed on this machine. `why`: the reason for the state, in words (null: it is ready). `orgs`: the
    number of organisations that it bills now. `without_customer`: how many of these lack a customer there. `oldest_ms`:
    the time since which the oldest open push waits (null: all pushes are settled).
    """

    provider: str
    state: str
    why: str | None
    orgs: int
    without_customer: int
    open_pushes: int
    oldest_ms: int | None


@dataclass(frozen=True)
class PolicyRow:
    """A plan's policy while its provider is unreadable.

    The policy applies to organisations that are not halted. `plan` empty: every plan without its own policy.
    """

    plan: str
    policy: str


@dataclass(frozen=True)
class ShownProvider(ProviderRow):
    """A provider with its terms in force, policies and rates for estimates.

    `live_from_ms`: the time from which Drawdown sends pushes (null: always, or a tick has not stored the terms yet).
    """

    live_from_ms: int | None
    terms: dict[str, object]
    policies: list[PolicyRow]
    rates: list[RateRow]


def rows_of(connection: sa.Connection, known: Providers | None, now_ms: int) -> list[ProviderRow]:
    """Return all providers, sorted by name.

    A provider is included if it is installed here, or known to the database.
    """
    kept = {one.provider: one for one in provider_lines(connection, now_ms)}
    paused = terms.paused(connection)
    changed = terms.changed(connection, _capabilities(known))
    here = set() if known is None else {*known.providers, *known.broken}
    shadows = {one.provider: str(one) for one in reversed(in_shadow(connection, now_ms))}
    found = []
    for name in sorted({*here, *kept} - EXEMPT_PROVIDERS):
        one = kept.get(name, ProviderLine(name))
        state, why = _state(known, name, paused, changed, shadows, now_ms)
        found.append(ProviderRow(name, state, why, one.orgs, one.without_customer, one.open_pushes, one.oldest_ms))
    return found


def _state(
    known: Providers | None,
    name: str,
    paused: Mapping[str, tuple[int, str]],
    changed: Mapping[str, str],
    shadows: Mapping[str, str],
    now_ms: int,
) -> tuple[str, str | None]:
    if known is not None and name in known.broken:
        return "broken", known.broken[name]
    provider: Any = None if known is None else known.providers.get(name)
    if provider is None:
        return "missing", "its package is not installed on this machine"
    if name in paused:
        since, reason = paused[name]
        return "paused", f"since {show_time(since)}: {reason}"
    if provider.dormant is not None:
        return "dormant", provider.dormant
    if name in changed:
        return "changed", changed[name]
    live = provider.capabilities.live_from_ms
    if live is not None and live > now_ms:
        return "shadow", shadows.get(name, "Drawdown seals and compares usage, but does not send it")
    return "ready", None


def _list(connection: sa.Connection, look: Look) -> Page[ProviderRow]:
    return Page(rows_of(connection, look.providers, look.now_ms))


def _show(connection: sa.Connection, look: Look, provider: Name) -> ShownProvider:
    require_biller(connection, look.providers, provider, "it does not have a state to show")
    row = next((one for one in rows_of(connection, look.providers, look.now_ms) if one.provider == provider), None)
    if row is None:
        raise Refused(explain_race("provider", provider))
    line = next((one for one in provider_lines(connection, look.now_ms) if one.provider == provider), None)
    policies = [PolicyRow(*pair) for pair in sorted(rates.policies_of(connection, provider).items())]
    stored = line or ProviderLine(provider)
    return ShownProvider(
        **vars(row), live_from_ms=stored.live_from_ms, terms=stored.terms, policies=policies,
        rates=rates.rate_rows(connection, provider),
    )  # fmt: skip


def _rates(connection: sa.Connection, look: Look, provider: Name) -> Page[RateRow]:
    require_biller(connection, look.providers, provider, "it does not have rates for estimates")
    return Page(rates.rate_rows(connection, provider))


def _set_by(row: RateRow) -> str:
    return row.actor if row.balance is None else f"{row.balance}, from the provider"


RATES: Final = (
    "feature", Column("start_ms", "from"), Column("micro", "#millionths"), Column("per_quantity", "#per"),
    Column("actor", "set by", of_row=_set_by), "in_use",
)  # fmt: skip
READ: Final = "catalog:read"
WRITE: Final = "catalog:write"
PLACE: Final = "/console/providers"
PAUSE: Final = Action(
    "provider pause",
    "Pause a provider",
    "Pause sending to a provider. Drawdown still seals usage, and sends it after you undo the pause.",
    _pause,
    _paused,
    path="/v1/providers/{provider}/pause",
    scope=WRITE,
    facts=_facts_of_pause,
    place=PLACE,
)
ACTIONS: Final = (
    PAUSE,
    Action(
        "provider when-down",
        "Set a policy for outages",
        "Set the policy for an unreadable provider. The policy applies to running organisations. A halted organisation "
        "stays halted.",
        _when_down,
        _sentence,
        path="/v1/providers/{provider}/when-down",
        scope=WRITE,
        facts=_facts_of_policy,
    ),
    Action(
        "provider rate",
        "Set a provider's rate",
        "Set a feature's rate at a provider, for estimates only. Drawdown does not charge by this rate. If the "
        "provider reports costs, such as Autumn's credit schema, they take precedence. At Autumn, a feature with "
        "its own balance must have 1,000,000 millionths for each base unit.",
        _rate,
        _rated,
        path="/v1/providers/{provider}/rates/{feature}",
        scope=WRITE,
        facts=_facts_of_rate,
    ),
)
LISTS: Final = (
    Listing(
        "provider list",
        "Providers",
        "List providers: state, organisations and open work.",
        _list,
        ("provider", "state", "why", Column("orgs", "#orgs"), Column("without_customer", "#without customer"),
         Column("open_pushes", "#open pushes")),
        holds="providers",
        path="/v1/providers",
        scope=READ,
    ),
    Showing(
        "provider show",
        "Provider",
        "Show a provider: state, terms, outage policies and rates.",
        _show,
        path="/v1/providers/{provider}",
        scope=READ,
        parts={"policies": ("Policies for outages", ("plan", "policy")), "rates": ("Rates", RATES)},
        most=0,
    ),
    Listing(
        "provider rates",
        "Rates of a provider",
        "List a provider's rates, which estimates use.",
        _rates,
        RATES,
        holds="rates",
        path="/v1/providers/{provider}/rates",
        scope=READ,
    ),
)  # fmt: skip
