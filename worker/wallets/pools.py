"""Change and list pools with their allotments, and the payers of executions.

Guarantee: a repeated call has no further effect, so a caller that lost the response can repeat the call. If a call may
change the verdict of an organisation, it marks the organisation, so that the next tick refreshes the verdict. The lists
only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import sqlalchemy as sa

from drawdown.ledger import lots, pools
from drawdown.ledger.accounts import Wallet, has_wallet, open_accounts, read_wallets, wallet_account
from drawdown.ledger.allocation import Lot
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.pools import Payer
from drawdown.ledger.reservations import Denied
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.declare import (
    AHEAD,
    CREDITS,
    ID,
    ORG,
    Action,
    Column,
    Fact,
    Invocation,
    Label,
    Listing,
    Look,
    New,
    Page,
    Showing,
    Size,
    Values,
)
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value, typed
from drawdown.schema.typed.parsing import show_credits, show_time
from drawdown.schema.units import as_credits
from drawdown.worker.catalog.wallets import billed_elsewhere, orgs_of
from drawdown.worker.verdict.refresh_requests import mark_for_projection

SQL = queries(__file__)


@dataclass(frozen=True)
class Allotted:
    """The lot of an allotment, and the wallets of pool and member after it.

    `repeated`: an earlier call made the same allotment.
    """

    lot: Lot
    repeated: bool
    pool: Wallet
    member: Wallet


def make(connection: sa.Connection, pool: str, by: By, *, new: bool = True) -> bool:
    """Create a pool, with a wallet of its name, if it does not exist.

    Return True if the call created the pool.

    Errors: UsageError for an invalid name. Denied `taken` for the name of a customer. UnknownId, unless `new`, for a
    name that resembles that of a pool or customer.
    """
    if not is_clean_id(pool) or ":" in pool:
        raise UsageError(
            f"invalid pool name {quote_value(pool)}: expected 1 to 200 characters without colons and control characters"
        )
    # Wait for concurrent assignments, so that an assignment and a pool cannot take the same name (P4).
    lock_buckets(connection)
    if not pools.is_pool(connection, pool) and ids.is_known(connection, ids.CUSTOMER, pool):
        raise pools.name_taken(pool)
    ids.require_meant(connection, pool, new=new, kind=ids.POOL)
    is_new = pools.make(connection, pool, by)
    if is_new:
        record(connection, "pool_make", pool, {}, by)
    return is_new


def allot(
    connection: sa.Connection, pool: str, customer_id: str, amount_micro: int, expires_ms: int, by: By, *, key: str
) -> Allotted:
    """Move credit, in micro-credits, out of a pool into a lot of a customer.

    The customer's use draws on this lot before lots of the default priority. At the end of the lot, its rest returns to
    the pool.

    Errors: UnknownId; UsageError for an invalid amount, end or key; Denied `pays_itself`, `is_pool`, `other_content`,
    `no_credit`; DatabaseBusy.
    """
    ids.require(connection, ids.POOL, pool)
    if customer_id == pool:
        raise Denied(
            "pays_itself",
            f"the pool {pool} cannot allot credit to itself. Name the customer that should get the credit",
        )
    ids.require(connection, ids.CUSTOMER, customer_id)
    if pools.is_pool(connection, customer_id):
        raise Denied("is_pool", f"{customer_id} is a pool, too. Name the customer that should get the credit")
    if not 0 < amount_micro <= MAX_ENTRY_MICRO:
        raise UsageError(
            f"invalid allotment {as_credits(amount_micro)}: expected more than 0, and at most 1,000,000,000 credits"
        )
    # If the lot exists, this call repeats an allotment that has ended.
    if expires_ms <= by.now_ms and lots.read(connection, f"allot:{pool}:{key}") is None:
        raise UsageError(f"invalid end of an allotment {show_time(expires_ms)}: expected a time in the future")
    if not is_clean_id(key):
        raise UsageError(
            f"invalid allotment key {quote_value(key)}: expected 1 to 200 characters without control characters"
        )
    done = pools.allot(connection, pool, customer_id, amount_micro, expires_ms, key, by)
    if not done.repeated:
        details = {"lot": done.lot.lot, "customer_id": customer_id, "amount_micro": amount_micro}
        record(connection, "pool_allot", pool, {**details, "expires_ms": expires_ms}, by)
    mark_for_projection(connection, orgs_of(connection, [pool, customer_id]), by.now_ms)
    wallets = read_wallets(connection, [pool, customer_id])
    return Allotted(done.lot, done.repeated, wallets[pool], wallets[customer_id])


def allow(
    connection: sa.Connection, payer: str, org_id: str, by: By, *, limit_micro: int | None = None
) -> tuple[Payer, Payer | None]:
    """Allow a wallet to pay for executions of an organisation, up to a limit.

    `limit_micro`: the limit in micro-credits (None: unlimited). Return the permission in force now, and the former
    permission (None: this is the first).

    Errors: UnknownId; UsageError for an invalid limit; Denied `pays_itself`, `no_wallet`.
    """
    ids.require(connection, ids.CUSTOMER, payer)
    ids.require(connection, ids.CUSTOMER, org_id)
    if payer == org_id:
        raise Denied("pays_itself", f"{payer} already pays for its own executions. Name another organisation")
    if limit_micro is not None and not 0 < limit_micro <= MAX_ENTRY_MICRO:
        raise UsageError(
            f"invalid limit {as_credits(limit_micro)}: expected more than 0, and at most 1,000,000,000 credits"
        )
    if not has_wallet(connection, payer) and billed_elsewhere(connection, payer, by.now_ms):
        # If Drawdown opened an empty wallet here, it would halt a customer that is billed in arrears.
        text = f"{payer} does not have a wallet here. Run `drawdown ledger grant {typed(payer, 'AMOUNT')}` first"
        raise Denied("no_wallet", text, "account")
    open_accounts(connection, [wallet_account(payer)])
    found, was = pools.say(connection, payer, org_id, by, allowed=True, limit_micro=limit_micro)
    assert found is not None
    if found != was:
        details = {"org_id": org_id, "limit_micro": limit_micro, "since_ms": found.since_ms}
        record(connection, "payer_allow", payer, details, by)
    return found, was


def end(connection: sa.Connection, payer: str, org_id: str, by: By) -> bool:
    """End the permission of a wallet to pay for new executions of an organisation.

    Return True if the permission was in force. The wallet still pays for executions that are already accepted. Errors:
    UnknownId.
    """
    ids.require(connection, ids.PAYER, payer)
    ids.require(connection, ids.CUSTOMER, org_id)
    found, was = pools.say(connection, payer, org_id, by, allowed=False)
    if found is None or found == was:
        return False
    record(connection, "payer_end", payer, {"org_id": org_id, "since_ms": found.since_ms}, by)
    return True


@dataclass(frozen=True)
class PoolRow:
    """A pool, in micro-credits.

    `allotted_micro`: the sum of all allotments, less the credit that the pool took back. `returned_micro`: the part of
    this sum that returned when an allotment ended. `members`: the number of customers with an allotment that has not
    ended.
    """

    pool: str
    available_micro: int
    allotted_micro: int
    returned_micro: int
    members: int


@dataclass(frozen=True)
class AllotmentRow:
    """An allotment, with its parts in micro-credits.

    `amount_micro = remaining_micro + waits_micro + used_micro + returned_micro + taken_back_micro`. `waits_micro`: the
    rest of an ended allotment that has not returned yet. `used_micro`: the credit that the member used, and the lot's
    share of credit that was taken back without naming a lot. `taken_back_micro`: the credit that the pool took back.
    """

    lot: str
    customer_id: str
    state: Literal["in use", "taken back", "over"]
    amount_micro: int
    remaining_micro: int
    waits_micro: int
    used_micro: int
    returned_micro: int
    taken_back_micro: int
    begins_ms: int
    expires_ms: int
    actor: str
    reason: str


@dataclass(frozen=True)
class PoolView:
    """A pool's wallet and its allotments, sorted by end, latest first.

    `more`: the pool has more allotments than these.
    """

    pool: str
    wallet: Wallet
    allotments: list[AllotmentRow]
    more: bool


@dataclass(frozen=True)
class PayerRow:
    """A payer of an organisation's executions, and its limit.

    `allowed`: the payer pays for new executions now. `limit_micro` None: unlimited. `since_ms`: the start of the
    permission. `spent_micro`: the credit that executions under the last permission have reserved or were charged,
    including ended executions.
    """

    payer: str
    org_id: str
    allowed: bool
    limit_micro: int | None
    spent_micro: int
    since_ms: int
    actor: str
    reason: str


def list_pools(connection: sa.Connection, now_ms: int, most: int) -> list[PoolRow]:
    """Return pools, sorted by name."""
    return [PoolRow(**row) for row in SQL.run(connection, "pools", {"now_ms": now_ms, "at_most": most}).mappings()]


def show_pool(connection: sa.Connection, pool: str, now_ms: int, most: int) -> PoolView:
    """Return a pool with its allotments. Errors: UnknownId."""
    ids.require(connection, ids.POOL, pool)
    rows = SQL.run(connection, "allotments", {"pool": pool, "at_most": most + 1}).all()
    chosen = [row.lot for row in rows[:most]]
    theirs = lots.read_all(connection, sorted({row.customer_id for row in rows[:most]}))
    allocations = lots.allocations(connection, theirs, now_ms)
    found = {}
    for customer_id, those in theirs.items():
        for lot in those:
            assert lot.pool is None or lot.expires_ms is not None
            over, left = lot.is_over(now_ms), lots.unused_micro(lot, allocations[customer_id])
            found[lot.lot] = AllotmentRow(
                lot=lot.lot,
                customer_id=customer_id,
                state="over" if over else "taken back" if lot.taken_micro and not left else "in use",
                amount_micro=lot.amount_micro,
                remaining_micro=0 if over else left,
                waits_micro=left if over else 0,
                used_micro=allocations[customer_id].used[lot.lot],
                returned_micro=lot.expired_micro,
                taken_back_micro=lot.taken_micro,
                begins_ms=lot.begins_ms,
                expires_ms=lot.expires_ms or 0,
                actor=lot.actor,
                reason=lot.reason,
            )
    wallet = read_wallets(connection, [pool])[pool]
    return PoolView(pool, wallet, [found[lot] for lot in chosen], len(rows) > most)


def list_payers(
    connection: sa.Connection, payer: str, org_id: str, now_ms: int, most: int, *, ended: bool = True
) -> list[PayerRow]:
    """Return the last decision on each pair of payer and organisation.

    `payer`, `org_id`: return only decisions on this payer or organisation (empty: on all). `ended`: also return payers
    that no longer pay. Errors: UnknownId.
    """
    if payer:
        ids.require(connection, ids.PAYER, payer)
    if org_id:
        ids.require(connection, ids.CUSTOMER, org_id)
    return _decided_payers(connection, payer, org_id, now_ms, most, ended=ended)


def _decided_payers(
    connection: sa.Connection, payer: str, org_id: str, now_ms: int, most: int, *, ended: bool = True
) -> list[PayerRow]:
    values = {"payer": payer, "org_id": org_id, "now_ms": now_ms, "at_most": most, "ended": int(ended)}
    rows = SQL.run(connection, "payers", values).mappings()
    return [PayerRow(**{**row, "allowed": bool(row["allowed"])}) for row in rows]


PoolName = Annotated[str, ID, "Name of the pool"]
# The kind is ID, not ORG, because an API key that is bound to an organisation must not spend the credit of others.
Member = Annotated[str, ID, "Customer's id; usually the organisation's id"]
PayerName = Annotated[str, ID, "Customer or pool that pays"]
PaidOrg = Annotated[str, ID, "Organisation for which the payer pays"]


@dataclass(frozen=True)
class PoolMade:
    """A pool. `created`: the call created the pool."""

    pool: str
    created: bool


def _make(connection: sa.Connection, asked: Invocation, pool: PoolName, *, new: New = False) -> PoolMade:
    return PoolMade(pool, make(connection, pool, asked.by, new=new))


def _sentence(done: PoolMade) -> str:
    said = (
        f"created. To give it credit, run `drawdown ledger grant {typed(done.pool, 'AMOUNT')}`"
        if done.created
        else "exists already; nothing changes"
    )
    return f"pool {done.pool}: {said}"


def _facts_of_pool(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    pool = values["pool"]
    if not pools.is_pool(connection, pool):
        return [Fact("Pool", "none yet")]
    found = read_wallets(connection, [pool])[pool]
    return [Fact("Available to the pool", show_credits(found.available_micro), fixed=False)]


@dataclass(frozen=True)
class PoolAllotted:
    """An allotment, and the credit available to pool and customer after it.

    Amounts are in micro-credits. `allotted_micro`: the credit that this call moved (0 if `repeated`).
    """

    pool: str
    customer_id: str
    lot: str
    key: str
    amount_micro: int
    allotted_micro: int
    expires_ms: int | None
    pool_available_micro: int
    available_micro: int
    repeated: bool


def _allot(
    connection: sa.Connection,
    asked: Invocation,
    pool: PoolName,
    customer_id: Member,
    amount_micro: Annotated[int, CREDITS, "Amount in credits, such as 12.50", Label("Credits")],
    *,
    expires_ms: Annotated[int, AHEAD, "Time at which unused credit returns to the pool: +30d, 2026-03-01"],
) -> PoolAllotted:
    done = allot(connection, pool, customer_id, amount_micro, expires_ms, asked.by, key=asked.key)
    return PoolAllotted(
        pool=pool,
        customer_id=customer_id,
        lot=done.lot.lot,
        key=asked.key,
        amount_micro=amount_micro,
        allotted_micro=0 if done.repeated else amount_micro,
        expires_ms=done.lot.expires_ms,
        pool_available_micro=done.pool.available_micro,
        available_micro=done.member.available_micro,
        repeated=done.repeated,
    )


def _allotted(done: PoolAllotted) -> str:
    verb, again = ("already allotted", ". This call did not move credit") if done.repeated else ("allotted", "")
    line = f"{done.pool} {verb} {show_credits(done.amount_micro)} credits to {done.customer_id} "
    line += f"until {show_time(done.expires_ms)}{again}. Available: {show_credits(done.pool_available_micro)} in "
    return f"{line}{done.pool}, {show_credits(done.available_micro)} in {done.customer_id}"


def _facts_of_allotment(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    customer = values["customer_id"]
    found = read_wallets(connection, [customer])[customer]
    return [
        *_facts_of_pool(connection, asked, values),
        Fact("Available to the customer", show_credits(found.available_micro), fixed=False),
    ]


def _size_of_allotment(_connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    """Return the size of an allotment.

    The size is the credit that moves from the pool's wallet to the customer.
    """
    return Size(micro=max(values["amount_micro"], 0))


@dataclass(frozen=True)
class PayerAllowed(Payer):
    """The decision in force on a payer and an organisation.

    `changed`: the call changed the decision.
    """

    changed: bool


def _allow(
    connection: sa.Connection,
    asked: Invocation,
    payer: PayerName,
    org_id: PaidOrg,
    *,
    limit_micro: Annotated[int | None, CREDITS, "Total limit of later executions (none if omitted)"] = None,
) -> PayerAllowed:
    found, was = allow(connection, payer, org_id, asked.by, limit_micro=limit_micro)
    return PayerAllowed(**vars(found), changed=found != was)


def _allowed(done: PayerAllowed) -> str:
    most = "without a limit" if done.limit_micro is None else f"up to {show_credits(done.limit_micro)} credits"
    same = "" if done.changed else "; nothing changes"
    return f"{done.payer} pays for executions of {done.org_id} from {show_time(done.since_ms)} on, {most}{same}"


@dataclass(frozen=True)
class PayerEnded:
    """A payer that does not pay for new executions.

    `changed`: the payer paid for new executions before the call.
    """

    payer: str
    org_id: str
    changed: bool


def _end(connection: sa.Connection, asked: Invocation, payer: PayerName, org_id: PaidOrg) -> PayerEnded:
    return PayerEnded(payer, org_id, end(connection, payer, org_id, asked.by))


def _ended(done: PayerEnded) -> str:
    if done.changed:
        return f"{done.payer} no longer pays for new executions of {done.org_id}"
    return f"{done.payer} was not a payer of {done.org_id} before"


def _facts_of_payer(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    found = _decided_payers(connection, values["payer"], values["org_id"], asked.by.now_ms, 1)
    if not found:
        return [Fact("Pays for its executions", "no")]
    row = found[0]
    limit = "no limit" if row.limit_micro is None else show_credits(row.limit_micro)
    return [
        Fact("Pays for its executions", "yes" if row.allowed else "no"),
        Fact("Up to", limit),
        Fact("Spent", show_credits(row.spent_micro), fixed=False),
    ]


def _size_of_limit(_connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    """Return the size of a payer's limit.

    The size is the amount of the payer's credit that the organisation can use.
    """
    limit_micro = values["limit_micro"]
    return Size(micro=limit_micro or 0, unbounded=limit_micro is None)


def _pools(connection: sa.Connection, look: Look) -> Page[PoolRow]:
    return Page(list_pools(connection, look.now_ms, look.most))


@dataclass(frozen=True)
class ShownPool:
    """A pool's credit in micro-credits, and its allotments, latest end first.

    `more`: the pool has more allotments than these.
    """

    pool: str
    available_micro: int
    reserved_micro: int
    balance_micro: int
    allotments: list[AllotmentRow]
    more: bool


def _pool(connection: sa.Connection, look: Look, pool: PoolName) -> ShownPool:
    found = show_pool(connection, pool, look.now_ms, look.most)
    has = found.wallet
    return ShownPool(pool, has.available_micro, has.held_micro, has.balance_micro, found.allotments, found.more)


def _payers(
    connection: sa.Connection,
    look: Look,
    *,
    payer: Annotated[str, ID, "Payer of the organisations"] = "",
    org_id: Annotated[str | None, ORG, "Organisation of the payers"] = None,
) -> Page[PayerRow]:
    if look.only is not None and payer:  # this key must not learn whether such a payer exists
        said = f"payers belong to all organisations, but this key is bound to {look.only}. Use another key"
        raise Denied("foreign_org", said)
    return Page(list_payers(connection, payer, org_id or "", look.now_ms, look.most))


def _pays(allowed: bool) -> str:
    return "yes" if allowed else "ended"


WRITE: Final = "ledger:write"
READ: Final = "ledger:read"
ACTIONS: Final = (
    Action(
        "pool make",
        "Make a pool",
        "Create a pool, a wallet that allots credit. Fill it with `ledger grant POOL AMOUNT`. If its name "
        "resembles a pool's or customer's, you must pass --new.",
        _make,
        _sentence,
        path="/v1/pools/{pool}",
        scope=WRITE,
        facts=_facts_of_pool,
    ),
    Action(
        "pool allot",
        "Allot credit of a pool",
        "Move credit from a pool into a customer's wallet. The customer uses it before lots of default priority. At "
        "its expiry, unused credit returns to the pool. To return it sooner, use `ledger take-back LOT`.",
        _allot,
        _allotted,
        path="/v1/pools/{pool}/allotments",
        scope=WRITE,
        facts=_facts_of_allotment,
        size=_size_of_allotment,
        keyed=True,
    ),
    Action(
        "payer allow",
        "Allow a payer",
        "Allow a wallet to pay for an organisation's executions. To use the payer, pass `execution accept "
        "--payer`. An execution keeps its payer. A new limit counts from zero.",
        _allow,
        _allowed,
        path="/v1/payers/{payer}/orgs/{org_id}/allow",
        scope=WRITE,
        facts=_facts_of_payer,
        size=_size_of_limit,
    ),
    Action(
        "payer end",
        "End a payer",
        "End a payer for new executions. The payer still pays for accepted executions.",
        _end,
        _ended,
        path="/v1/payers/{payer}/orgs/{org_id}/end",
        scope=WRITE,
        facts=_facts_of_payer,
    ),
)
LISTS: Final = (
    Listing(
        "pool list",
        "Pools",
        "List pools: credit, allotments, returns and members.",
        _pools,
        ("pool", Column("available_micro", "#available"), Column("allotted_micro", "#allotted"),
         Column("returned_micro", "#returned"), Column("members", "#members now")),
        holds="pools",
        path="/v1/pools",
        scope=READ,
        most=50,
    ),
    Showing(
        "pool show",
        "Pool",
        "Show a pool, its members and their allotments. Each allotment shows the amounts that are left, due to "
        "return, used, returned and taken back.",
        _pool,
        path="/v1/pools/{pool}",
        scope=READ,
        parts={
            "allotments": (
                "Allotments",
                (Column("customer_id", "member"), "state", Column("amount_micro", "#allotted"),
                 Column("remaining_micro", "#remaining"), Column("waits_micro", "#waits"),
                 Column("used_micro", "#used"), Column("returned_micro", "#returned"),
                 Column("taken_back_micro", "#taken back"),
                 Column("begins_ms", "begins"), Column("expires_ms", "ends"), "lot"),
            ),
        },
    ),
    Listing(
        "payer list",
        "Payers",
        "List payers with organisation, limit and spent credit.",
        _payers,
        ("payer", Column("org_id", "org"), Column("allowed", "pays", _pays), Column("spent_micro", "#spent"),
         Column("limit_micro", "#limit"), Column("since_ms", "since"), "reason"),
        holds="payers",
        path="/v1/payers",
        scope=READ,
        most=50,
    ),
)  # fmt: skip
