"""A wallet's entries, the latest use first, a page at a time: each with what it is an entry of. Reads only.

Guarantee: a page costs the same however many entries there are: it begins behind the last one of the page before, and
where it leaves some out it looks through MOST_LOOKED_AT at most. The entries of all pages add up to the balance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.typed.parsing import parse_credits, type_credits
from drawdown.schema.units import MICRO
from drawdown.worker.wallets.days import closing_micro

SQL = queries(__file__)

MOST_ENTRIES_ON_PAGE: Final = 50
MOST_ENTRIES_AT_ONCE: Final = 1_000
"""Of a file, read and held together."""
MOST_LOOKED_AT: Final = 10_000
"""Entries that one page goes through, where those are asked for that were booked in some time, or of some amount."""
NEVER: Final = 2**53
CENTS: Final = 2
"""Decimals to which amounts are rounded where people read them."""
CENT: Final = MICRO // 10**CENTS
TYPED: Final = re.compile(r"[+-]?(\d{1,3}(?:,\d{3})+(?:\.\d*)?|[^,+-]*)")
"""An amount as a page shows it, or without commas: elsewhere a comma may be meant as a decimal point."""
BELOW_A_CENT: Final = ("<0.01", ">-0.01")
"""How a page shows what would round to nothing, up and down."""


@dataclass(frozen=True)
class Chosen:
    """Which entries: used, and booked, in [from, to) in milliseconds; of `sizes` micro-credits, [from, to) of them,
    whether up or down. As it stands: all."""

    used_from_ms: int = 0
    used_to_ms: int = NEVER
    booked_from_ms: int = 0
    booked_to_ms: int = NEVER
    sizes: tuple[int, int] = (0, NEVER)

    @property
    def narrows(self) -> bool:
        """Whether some that lie between others by their use may be left out."""
        return (self.booked_from_ms, self.booked_to_ms, *self.sizes) != (0, NEVER, 0, NEVER)

    @property
    def amount(self) -> str | None:
        """The amount that `sizes` are of, as `sizes_of` reads it; None: any."""
        begin, end = self.sizes
        if self.sizes == ALL.sizes:
            return None
        if end - begin == 1:
            return f"{begin // MICRO}.{begin % MICRO:06d}"
        return BELOW_A_CENT[0] if begin == 1 else type_credits(end - CENT // 2)


ALL: Final = Chosen()


def sizes_of(text: str, option: str) -> tuple[int, int]:
    """The sizes that somebody means who read this amount: `4.8` is all that rounds to 4.80, and what has more than two
    decimals is itself alone. Its sign says nothing. Errors: UsageError naming the option."""
    plain = text.strip().replace("\N{MINUS SIGN}", "-")
    if plain in BELOW_A_CENT:
        return 1, CENT // 2
    typed = TYPED.fullmatch(plain)
    if typed is None:
        raise UsageError(f"{option}: {text!r} is no amount of credits; write 12.50 or 1,234.50")
    unsigned = typed[1].replace(",", "")
    try:
        size = parse_credits(unsigned)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error
    if len(unsigned.partition(".")[2]) > CENTS:
        return size, size + 1
    return max(size - CENT // 2, 0), size + CENT // 2


@dataclass(frozen=True)
class EntryLine:
    """An entry, by how many micro-credits it moved the wallet, up or down; for which time (`ts`: of use), and when it
    was booked (`at_ms`). Of usage, `key` is its push's; of a run, `reservation` names it; `lot`: of which it expires or
    is taken."""

    key: str
    kind: str
    feature: str | None
    quantity: int | None
    ts: int
    at_ms: int
    actor: str
    reason: str
    reservation: str | None
    lot: str | None
    moved_micro: int


@dataclass(frozen=True)
class Entries:
    """`after`: the key behind which the next page begins; None where there is no more. `booked_micro`: what the wallet
    holds behind the first of them; None where they do not begin with the latest. `is_cut`: the page ended there for
    having gone through MOST_LOOKED_AT."""

    entries: list[EntryLine]
    after: str | None
    booked_micro: int | None
    is_cut: bool = False


def page(
    connection: sa.Connection,
    customer_id: str,
    after: str = "",
    most: int = MOST_ENTRIES_ON_PAGE,
    *,
    chosen: Chosen = ALL,
) -> Entries:
    """Those behind the entry of that key.

    Errors: UsageError where the wallet has none of that key, or for a time that ends before it begins."""
    if chosen.booked_from_ms >= chosen.booked_to_ms:
        raise UsageError("the range is empty: it ends before it begins")
    values: dict[str, Any] = {"account_id": wallet_account(customer_id), **vars(chosen), "after_key": after}
    values["size_from"], values["size_to"] = chosen.sizes
    values |= {"at_most": most + 1, "looked_at": MOST_LOOKED_AT}
    behind = (chosen.used_to_ms, "")
    if after:
        moment = SQL.run(connection, "moment", values).scalar()
        if moment is None:
            raise UsageError("after: there is no such entry of this wallet")
        behind = min(behind, (int(moment), after))
    values["after_ms"], values["after_key"] = behind
    # What leaves a wallet is booked once it was used, and no sooner: its index is entered there.
    values["left_ms"], values["left_key"] = min(behind, (chosen.booked_to_ms, ""))
    last = SQL.run(connection, "last", values).one_or_none() if chosen.narrows else None
    is_cut, down_to = last is not None and last.looked == MOST_LOOKED_AT, ""
    if last is not None and is_cut:
        values |= {"last_ms": last.ts, "last_key": last.key}
        down_to = "down_to"
    rows = SQL.run(connection, "page", values, down_to=down_to)
    found = [EntryLine(**row._mapping) for row in rows]
    booked = SQL.run(connection, "booked", values).scalar() if not after and chosen == ALL else None
    if len(found) > most:
        return Entries(found[:most], found[most - 1].key, booked)
    return Entries(found, last.key if last is not None and is_cut else None, booked, is_cut)


def every(connection: sa.Connection, customer_id: str, chosen: Chosen = ALL) -> Iterator[tuple[EntryLine, int | None]]:
    """All of them, in the order of pages, each with what was left behind it; None where some are left out between them.
    Errors: as `page`."""
    left = None if chosen.narrows else closing_micro(connection, customer_id, chosen.used_to_ms)
    after: str | None = ""
    while after is not None:
        found = page(connection, customer_id, after, MOST_ENTRIES_AT_ONCE, chosen=chosen)
        for one in found.entries:
            yield one, left
            left = None if left is None else left - one.moved_micro
        after = found.after
