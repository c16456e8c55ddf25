"""Ids that people type.

Drawdown rejects an unknown id, and its message names the nearest known id.

Guarantee: a request with an unknown id does not change anything. The search for the nearest id reads a bounded number
of rows, for a table of any size. The rows are the neighbours of the id in sorted order, and ids that share a half with
it, among SCANNED ids. The comparison has a bound, too (`text.nearest`). If a caller may see only one organisation
(`tell_no_names`), Drawdown does not search, and does not show a name. The same holds for a caller beyond a server's
budget (`tell_few_names`). Drawdown then refuses each unknown id that the caller does not declare new, so a refusal does
not show that a similar id exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.errors import UnknownId, UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import escape_like, nearest, quote_value
from drawdown.schema.units import MAX_ID_CHARS

SQL = queries(__file__)

NEIGHBOURS: Final = 500
"""Ids to read on either side of a mistyped id in sorted order.

The limit is for each source of such ids.
"""
MAX_SAID_CHARS: Final = 200
"""Most characters of an id that a message quotes."""
SCANNED: Final = 100_000
"""Ids that Drawdown searches for an id that shares an intact half with a mistyped id."""

SAMPLED_NEIGHBOURS: Final = 50


@dataclass(frozen=True)
class IdSource:
    """A fragment of `ids.sql` that lists ids of a kind.

    `prefix`: the text before the ids in the fragment.
    """

    piece: str
    prefix: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of id, and the command that lists the known ids."""

    noun: str
    sources: tuple[IdSource, ...]
    shown_by: str


_ORGS: Final = IdSource("orgs")
ORG: Final = Kind("organisation", (_ORGS,), "drawdown org list")
FEATURE: Final = Kind(
    "feature",
    (IdSource("mapped_features"), IdSource("priced_features")),
    "drawdown feature list",
)
CUSTOMER: Final = Kind(
    "customer",
    (
        _ORGS,
        IdSource("wallets", "wallet:"),
        IdSource("assigned_customers"),
    ),
    "drawdown ledger show",
)
ASKING: Final = Kind("organisation", CUSTOMER.sources, ORG.shown_by)
"""An organisation in a product's call.

The organisation can have a wallet before a tick registers it.
"""
POOL: Final = Kind("pool", (IdSource("pools"),), "drawdown pool list")
PAYER: Final = Kind("payer", (IdSource("payers"),), "drawdown payer list")
PLAN: Final = Kind("plan", (IdSource("ledger_plans"),), "drawdown plan list")
ANY_PLAN: Final = Kind("plan", (*PLAN.sources, IdSource("plans_of_orgs")), "drawdown plan list")
"""Plans of the embedded ledger, and plans that a provider has reported for an organisation."""
RUN: Final = Kind("execution", (IdSource("runs"),), "drawdown execution list")
METRIC: Final = Kind("metric", (IdSource("guard_metrics"),), "drawdown guard list")
COSTING: Final = Kind("feature or metric", (*FEATURE.sources, *METRIC.sources), "drawdown feature list")
"""Features and metrics that can have a vendor's cost."""
USE: Final = Kind("use", (IdSource("guard_uses"),), "drawdown guard uses")
TIER: Final = Kind("tier", (IdSource("tiers"),), "drawdown tier list")
LOT: Final = Kind("lot", (IdSource("lots"), IdSource("lots", "grant:")), "drawdown ledger lots CUSTOMER")
"""A lot, by its key, or by the key of its grant."""
API_KEY: Final = Kind("API key", (IdSource("api_key_names"),), "drawdown key list")
CONSOLE_USER: Final = Kind("person of the console", (IdSource("console_users"),), "drawdown console user list")
ROLE: Final = Kind("role", (), "drawdown console user add --help")
SCOPE: Final = Kind("scope", (), "drawdown key create --help")
PROJECT: Final = Kind("project", (IdSource("projects"),), "drawdown execution list")
SUBJECT: Final = Kind("subject", (IdSource("subjects"),), "drawdown execution list")
ACT: Final = Kind("action of an execution", (IdSource("acts"),), "drawdown execution list")
SUPPLIER: Final = Kind("supplier", (IdSource("suppliers"),), "drawdown supplier list")
SETTLEMENT: Final = Kind("settlement", (IdSource("settlements"),), "drawdown settlement list")
PAYOUT: Final = Kind("payout", (IdSource("payouts"),), "drawdown settlement payouts")
TOPUP: Final = Kind("top-up", (IdSource("topups"),), "drawdown topup list")
TOPPED_UP: Final = Kind("customer with top-ups", (IdSource("topped_up"),), "drawdown topup list")
ENDPOINT: Final = Kind("endpoint", (IdSource("hook_endpoints"),), "drawdown hook list")
MESSAGE: Final = Kind("message", (IdSource("hook_messages"),), "drawdown hook messages")
EVENT: Final = Kind("event", (), "drawdown hook set --help")
EVENT_TYPE: Final = Kind("event type", (IdSource("event_types"),), "drawdown feature list")
MAPPED: Final = Kind("event type", (*EVENT_TYPE.sources, IdSource("mapped_features")), "drawdown feature list")
"""An event type, or a feature."""
BACKFILL: Final = Kind("backfill", (IdSource("backfills"),), "drawdown backfill list")
BATCH: Final = Kind("batch of usage", (IdSource("batch_ids"),), "drawdown batch list")
SHARING_BATCH: Final = Kind(BATCH.noun, (IdSource("batches_that_share"),), BATCH.shown_by)
"""A batch that shares rows with others, until a person accepts it."""
BATCH_SOURCE: Final = Kind("watched folder or query", (IdSource("batch_source_names"),), "drawdown source list")
SOURCE: Final = Kind("source of events", (), "drawdown event sources")
USAGE_EVENT: Final = Kind("event of this source", (), "drawdown event list --org ORG --from TIME")
CELL: Final = Kind("cell", (IdSource("cells"), IdSource("cells_of_sandboxes")), "drawdown cell list")
"""Cells, including those that only hosts have reported."""
SAMPLE: Final = Kind("sample", (IdSource("samples"),), "drawdown sample quarantined")
USED_SAMPLE: Final = Kind("sample", SAMPLE.sources, "drawdown sample list --org ORG --from TIME")
"""A sample that was billed or can be billed."""
PAYMENTS: Final = Kind("payment service", (), "drawdown topup set --help")
PROVIDER: Final = Kind("provider", (IdSource("assigned_providers"),), "drawdown provider list")
ACTOR: Final = Kind("actor", (IdSource("actors"),), "drawdown audit list")
TARGET: Final = Kind(
    "target",
    (
        IdSource("targets"),
        _ORGS,
        IdSource("cells"),
        IdSource("mapped_features"),
        IdSource("wallets", "wallet:"),
    ),
    "drawdown audit list",
)
"""Targets of people's actions."""
VIA: Final = Kind("way", (), "drawdown audit list")
ACTION: Final = Kind("action", (IdSource("kinds_of_action"),), "drawdown audit list")


def is_known(connection: sa.Connection, kind: Kind, given: str) -> bool:
    """Return True if an id exists."""
    return any(
        SQL.run(connection, "is_known", {"id": source.prefix + given}, source=source.piece).first()
        for source in kind.sources
    )


def require(connection: sa.Connection, kind: Kind, given: str, *, new: bool | None = None) -> None:
    """Check that an id is known.

    `new` True: accept an unknown id. False: reject it, and explain in the error how to accept it. None: reject it.
    Errors: UnknownId, with the nearest known id.
    """
    if not (new or is_known(connection, kind, given)):
        raise _refusal(connection, kind, given, _candidates(connection, kind, given), may_be_new=new is not None)


def tell_no_names(connection: sa.Connection) -> None:
    """Hide the names of other organisations while this connection is used.

    The caller may see only one organisation.
    """
    connection.execution_options(tells_names=False)


def tell_few_names(connection: sa.Connection, may: Callable[[], bool]) -> None:
    """Limit the searches for the nearest name to those that `may` allows.

    The limit lasts while this connection is used.
    """
    connection.execution_options(may_search=may)


def tells_names(connection: sa.Connection) -> bool:
    """Return True if the caller may learn names of any organisation."""
    return bool(connection.get_execution_options().get("tells_names", True))


def may_search(connection: sa.Connection) -> bool:
    """Return True if the caller may search for the nearest name now.

    Each True uses one search of the limit of `tell_few_names`.
    """
    may: Callable[[], bool] | None = connection.get_execution_options().get("may_search")
    return tells_names(connection) and (may is None or may())


def _candidates(connection: sa.Connection, kind: Kind, given: str, *, sampled: bool = False) -> list[str] | None:
    """Return the ids to search for the nearest; None if no search is allowed now.

    `sampled`: also organisations that have samples.
    """
    if not may_search(connection):
        return None
    return [*_around(connection, kind, given), *(_sampled_around(connection, given) if sampled else ())]


def _refusal(
    connection: sa.Connection, kind: Kind, given: str, candidates: list[str] | None, *, may_be_new: bool = True
) -> UnknownId:
    """Return the error for an unknown id.

    If the caller may not learn names, the error has neither the nearest id nor the command that lists all ids.
    """
    if tells_names(connection):
        return unknown(kind, given, candidates or (), may_be_new=may_be_new)
    said = f"unknown {kind.noun} {_shorten(given)} among those that you may see. Check the id"
    return UnknownId(f"{said}, or pass --new to use it anyway" if may_be_new else said, kind.noun)


def require_unlike(connection: sa.Connection, kind: Kind, given: str, *, new: bool) -> None:
    """Check that an id is known, or unlike any known id.

    An id that is unlike all others counts as new, and not as mistyped. If no search is allowed, no id counts as new.

    `new`: accept it in any case. Errors: UnknownId, with the nearest known id.
    """
    if not (new or is_known(connection, kind, given)):
        around = _candidates(connection, kind, given)
        if around is None or nearest(given, around) is not None:
            raise _refusal(connection, kind, given, around)


def find_near(connection: sa.Connection, kind: Kind, given: str) -> str | None:
    """Return the known id that an unknown id probably means.

    Return None if no id is similar, or no search is allowed.
    """
    return nearest(given, _candidates(connection, kind, given) or ())


def require_meant(connection: sa.Connection, given: str, *, new: bool, kind: Kind = CUSTOMER) -> None:
    """Check that a customer is known, has samples, or is unlike all known customers.

    A customer that is unlike all others counts as new, and not as mistyped. If no search is allowed, none counts as
    new. `kind`: the kind of id that the error names. The check itself is always among customers. `new`: accept it in
    any case. Errors: UnknownId, with the nearest known id.
    """
    if not (new or is_known(connection, CUSTOMER, given) or has_samples(connection, given)):
        around = _candidates(connection, CUSTOMER, given, sampled=True)
        if around is None or nearest(given, around) is not None:
            raise _refusal(connection, kind, given, around)


def require_sampled_org(connection: sa.Connection, org_id: str, *, new: bool) -> None:
    """Check that an organisation is registered or has samples.

    An organisation can have samples before a tick registers it.

    `new`: accept it in any case. Errors: UnknownId, with the nearest known id.
    """
    if not (new or is_known(connection, ORG, org_id) or has_samples(connection, org_id)):
        raise _refusal(connection, ORG, org_id, _candidates(connection, ORG, org_id, sampled=True))


def _sampled_around(connection: sa.Connection, org_id: str) -> list[str]:
    values = {"id": org_id, "at_most": SAMPLED_NEIGHBOURS}
    statements = ("sampled_from_id_on", "sampled_before_id")
    return [str(name) for statement in statements for name in SQL.run(connection, statement, values).scalars()]


def has_samples(connection: sa.Connection, org_id: str) -> bool:
    """Return True if a host reported samples of the organisation."""
    return SQL.run(connection, "has_samples", {"org_id": org_id}).first() is not None


def require_among(kind: Kind, given: str, there: Iterable[str]) -> None:
    """Check that an id is among `there`, for ids that are not in a table.

    Errors: UnknownId.
    """
    names = sorted(there)
    if given not in names:
        raise unknown(kind, given, names, listed=", ".join(names))


def unknown(
    kind: Kind, given: str, candidates: Iterable[str], *, may_be_new: bool = False, listed: str = ""
) -> UnknownId:
    """Return the error for an unknown id.

    The error has the nearest of the candidates, and the command that lists all ids.
    """
    near = nearest(given, (one for one in candidates if one != given))  # another organisation may have this id
    parts = [f"unknown {kind.noun} {_shorten(given)}"]
    if near is not None:
        parts.append(f"did you mean {near}?")
    parts.append(f"expected one of: {listed}" if listed else f"`{kind.shown_by}` lists all")
    if may_be_new:
        parts.append("pass --new to use it anyway")
    return UnknownId("; ".join(parts).replace("?;", "?"), kind.noun, near)


def not_of(kind: Kind, given: str, org_id: str) -> UnknownId:
    """Return the error for an unknown id, for a caller bound to an organisation.

    The error is the same for an id of another organisation, so the caller cannot learn that the id exists.
    """
    said = f"unknown {kind.noun} {_shorten(given)}. To list those of {org_id}, run `{kind.shown_by}`"
    return UnknownId(said, kind.noun)


def _shorten(given: str) -> str:
    return given[:MAX_SAID_CHARS] or repr(given)


def _around(connection: sa.Connection, kind: Kind, given: str) -> Iterator[str]:
    for source in kind.sources:
        values = {
            "id": source.prefix + given,
            "at_most": NEIGHBOURS,
            "scanned": SCANNED,
            **halves(source.prefix, given),
        }
        for statement in ("from_id_on", "before_id", "with_a_half"):
            for name in SQL.run(connection, statement, values, source=source.piece).scalars():
                if name:
                    yield str(name).removeprefix(source.prefix)


def halves(prefix: str, given: str) -> dict[str, str]:
    """Return LIKE patterns for the start and the end of an id.

    They find ids with a mistake only in the other half.
    """
    middle = len(given) // 2
    head, tail = escape_like(given[:middle]), escape_like(given[middle:])
    return {"head": f"{prefix}{head}%", "tail": f"{prefix}%{tail}"}


_UNCLEAN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffd-\uffff]")


def is_clean(text: str) -> bool:
    """Return True if all databases store a text in the same way.

    Control characters (C0, DEL, C1) are excluded, and so are halves of surrogate pairs, which databases do not store.
    U+FFFD is excluded because it replaces invalid UTF-8. U+FFFE and U+FFFF are excluded because SQLite's functions read
    them as U+FFFD.
    """
    # isprintable() is a cheap test for nearly all texts. Except for U+FFFD, it is stricter than the rule.
    return (text.isprintable() and "\ufffd" not in text) or _UNCLEAN.search(text) is None


def is_clean_id(text: str) -> bool:
    """Return True if a text is a valid id: 1 to 200 clean characters."""
    return 0 < len(text) <= MAX_ID_CHARS and is_clean(text)


ID_SCHEMA: Final[dict[str, Any]] = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS}
"""The JSON schema of an id."""


FEATURE_NAME: Final = re.compile(r"(?!r?[0-9]+$)[a-z0-9_]{1,64}")
"""The form of a feature's name.

The name is neither a number nor like a revision, so keys of two pushes are never equal (P6).
"""


def require_feature_name(feature: str) -> None:
    """Refuse an invalid name of a feature. Errors: UsageError."""
    if not FEATURE_NAME.fullmatch(feature):
        raise UsageError(
            f"invalid feature name {quote_value(feature)}: expected 1 to 64 characters of a-z, 0-9 and _. Digits alone "
            "(12), and r with digits (r1), are not allowed"
        )
