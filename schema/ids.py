"""Ids that people give: known, or refused with the nearest known id.

Guarantee: an id that names nothing changes nothing, and is reported. The search for the nearest reads a bounded number
of rows, for a table of any size: those around the place where the id would stand, and SCANNED others that share a half
with it. Its comparison has a bound, too (`text.nearest`). For a caller that may see one organisation alone
(`tell_no_names`), and for a server's caller beyond its budget (`tell_few_names`), nothing is searched and no name is
shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.errors import UnknownId
from drawdown.schema.sql import queries
from drawdown.schema.text import nearest
from drawdown.schema.units import MAX_ID_CHARS

SQL = queries(__file__)

NEIGHBOURS: Final = 500
"""Ids read on either side of a mistyped id's place, in each source of such ids."""
MAX_SAID_CHARS: Final = 200
"""Part of an id that a message repeats."""
SCANNED: Final = 100_000
"""Ids looked at for the half that a single slip leaves as it was meant."""

SAMPLED_NEIGHBOURS: Final = 50


@dataclass(frozen=True)
class IdSource:
    """A source of ids of a kind: a fragment of `ids.sql`. `prefix`: the text before them there."""

    piece: str
    prefix: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of id, and the command that lists those there are."""

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
"""An organisation that a product asks about: it may have a wallet before any tick registers it."""
POOL: Final = Kind("pool", (IdSource("pools"),), "drawdown pool list")
PAYER: Final = Kind("payer", (IdSource("payers"),), "drawdown payer list")
PLAN: Final = Kind("plan", (IdSource("ledger_plans"),), "drawdown plan list")
ANY_PLAN: Final = Kind("plan", (*PLAN.sources, IdSource("plans_of_orgs")), "drawdown plan list")
"""Plans, including those that only another provider has reported."""
RUN: Final = Kind("execution", (IdSource("runs"),), "drawdown execution list")
METRIC: Final = Kind("metric", (IdSource("guard_metrics"),), "drawdown guard list")
COSTING: Final = Kind("feature or metric", (*FEATURE.sources, *METRIC.sources), "drawdown feature list")
"""Things that may cost something at a vendor."""
USE: Final = Kind("use", (IdSource("guard_uses"),), "drawdown guard uses")
TIER: Final = Kind("tier", (IdSource("tiers"),), "drawdown tier list")
LOT: Final = Kind("lot", (IdSource("lots"), IdSource("lots", "grant:")), "drawdown ledger lots CUSTOMER")
"""By its key, or by that which its grant was given."""
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
"""Or a feature."""
BACKFILL: Final = Kind("backfill", (IdSource("backfills"),), "drawdown backfill list")
BATCH: Final = Kind("batch of usage", (IdSource("batch_ids"),), "drawdown batch list")
SHARING_BATCH: Final = Kind(BATCH.noun, (IdSource("batches_that_share"),), BATCH.shown_by)
"""One that shares rows with others: a person accepts it."""
BATCH_SOURCE: Final = Kind("watched folder or query", (IdSource("batch_source_names"),), "drawdown source list")
SOURCE: Final = Kind("source of events", (), "drawdown event sources")
USAGE_EVENT: Final = Kind("event of this source", (), "drawdown event list --org ORG --from TIME")
CELL: Final = Kind("cell", (IdSource("cells"), IdSource("cells_of_sandboxes")), "drawdown cell list")
"""Cells, including those that only hosts have reported."""
SAMPLE: Final = Kind("sample", (IdSource("samples"),), "drawdown sample quarantined")
USED_SAMPLE: Final = Kind("sample", SAMPLE.sources, "drawdown sample list --org ORG --from TIME")
"""One that was billed, or may be."""
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
"""Things that a person may have changed."""
VIA: Final = Kind("way", (), "drawdown audit list")
ACTION: Final = Kind("action", (IdSource("kinds_of_action"),), "drawdown audit list")


def is_known(connection: sa.Connection, kind: Kind, given: str) -> bool:
    """Return True if an id exists."""
    return any(
        SQL.run(connection, "is_known", {"id": source.prefix + given}, source=source.piece).first()
        for source in kind.sources
    )


def require(connection: sa.Connection, kind: Kind, given: str, *, new: bool | None = None) -> None:
    """Insist that an id is known.

    `new` True: accept it all the same. False: the error states how that is done. None: it cannot be new.

    Errors: UnknownId, with the nearest known id.
    """
    if not (new or is_known(connection, kind, given)):
        if not tells_names(connection):
            raise UnknownId(f"unknown {kind.noun} {_shorten(given)} among those that you may see", kind.noun)
        raise unknown(kind, given, _near(connection, kind, given), may_be_new=new is not None)


def tell_no_names(connection: sa.Connection) -> None:
    """Show no names of other organisations, as long as this connection is used.

    The caller may see one organisation alone.
    """
    connection.execution_options(tells_names=False)


def tell_few_names(connection: sa.Connection, may: Callable[[], bool]) -> None:
    """Search for the nearest name only as often as `may` allows, as long as this connection is used."""
    connection.execution_options(may_search=may)


def tells_names(connection: sa.Connection) -> bool:
    """Return True if the caller may learn names of any organisation."""
    return bool(connection.get_execution_options().get("tells_names", True))


def _near(connection: sa.Connection, kind: Kind, given: str) -> Iterable[str]:
    """Return the ids to find the nearest among; empty if there is no search now."""
    may: Callable[[], bool] | None = connection.get_execution_options().get("may_search")
    return _around(connection, kind, given) if may is None or may() else ()


def require_unlike(connection: sa.Connection, kind: Kind, given: str, *, new: bool) -> None:
    """Insist that an id is known, or unlike any known id: then it is new, and not mistyped.

    Errors: UnknownId, with the nearest known id; `new` accepts it all the same.
    """
    if not (new or is_known(connection, kind, given)):
        around = list(_around(connection, kind, given))
        if nearest(given, around) is not None:
            raise unknown(kind, given, around, may_be_new=True)


def find_near(connection: sa.Connection, kind: Kind, given: str) -> str | None:
    """Return the known id that an unknown one most likely means; None if it is like none, or no search is allowed."""
    return nearest(given, _near(connection, kind, given))


def require_meant(connection: sa.Connection, given: str, *, new: bool, kind: Kind = CUSTOMER) -> None:
    """Insist that a customer is known, has samples, or is unlike any known one: then it is new, and not mistyped.

    The same holds for another `kind` that has a wallet.

    Errors: UnknownId, with the nearest known id; `new` accepts it all the same.
    """
    if not (new or is_known(connection, CUSTOMER, given) or has_samples(connection, given)):
        around = [*_around(connection, CUSTOMER, given), *_sampled_around(connection, given)]
        if nearest(given, around) is not None:
            raise unknown(kind, given, around, may_be_new=True)


def require_sampled_org(connection: sa.Connection, org_id: str, *, new: bool) -> None:
    """Insist on an organisation that is registered or has samples: those come before the first tick registers it.

    Errors: UnknownId, with the nearest one there is.
    """
    if not (new or is_known(connection, ORG, org_id) or has_samples(connection, org_id)):
        around = [*_around(connection, ORG, org_id), *_sampled_around(connection, org_id)]
        raise unknown(ORG, org_id, around, may_be_new=True)


def _sampled_around(connection: sa.Connection, org_id: str) -> list[str]:
    values = {"id": org_id, "at_most": SAMPLED_NEIGHBOURS}
    statements = ("sampled_from_id_on", "sampled_before_id")
    return [str(name) for statement in statements for name in SQL.run(connection, statement, values).scalars()]


def has_samples(connection: sa.Connection, org_id: str) -> bool:
    """Return True if any host reported samples of the organisation."""
    return SQL.run(connection, "has_samples", {"org_id": org_id}).first() is not None


def require_among(kind: Kind, given: str, there: Iterable[str]) -> None:
    """The same for ids that lie in no table. Errors: UnknownId."""
    names = sorted(there)
    if given not in names:
        raise unknown(kind, given, names, listed=", ".join(names))


def unknown(
    kind: Kind, given: str, candidates: Iterable[str], *, may_be_new: bool = False, listed: str = ""
) -> UnknownId:
    """The error for an id that names nothing: the nearest of the candidates, and what shows them all."""
    near = nearest(given, (one for one in candidates if one != given))  # one of another organisation may be `given`
    parts = [f"unknown {kind.noun} {_shorten(given)}"]
    if near is not None:
        parts.append(f"did you mean {near}?")
    parts.append(f"expected one of: {listed}" if listed else f"`{kind.shown_by}` lists all")
    if may_be_new:
        parts.append("pass --new to use it anyway")
    return UnknownId("; ".join(parts).replace("?;", "?"), kind.noun, near)


def not_of(kind: Kind, given: str, org_id: str) -> UnknownId:
    """Return the error for a key that is bound to an organisation: the same for another one's id as for none."""
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
    """Return patterns of the start and the end of an id that has one slip in its other half."""
    middle = len(given) // 2
    head, tail = (
        half.replace("!", "!!").replace("%", "!%").replace("_", "!_") for half in (given[:middle], given[middle:])
    )
    return {"head": f"{prefix}{head}%", "tail": f"{prefix}%{tail}"}


_UNCLEAN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffd-\uffff]")


def is_clean(text: str) -> bool:
    """No C0, DEL, C1, no half of a surrogate pair (which no database can store), no U+FFFD, which is what is left of
    bytes that were no UTF-8, and neither U+FFFE nor U+FFFF, which SQLite's functions read as U+FFFD."""
    # isprintable() is the cheap test for nearly all; but for U+FFFD it is stricter than the rule.
    return (text.isprintable() and "\ufffd" not in text) or _UNCLEAN.search(text) is None


def is_clean_id(text: str) -> bool:
    """1 to 200 characters, all of them clean."""
    return 0 < len(text) <= MAX_ID_CHARS and is_clean(text)


FEATURE_NAME: Final = re.compile(r"(?!r?[0-9]+$)[a-z0-9_]{1,64}")
"""Neither a number nor like a revision, so that keys of two pushes can never read alike (P6)."""
