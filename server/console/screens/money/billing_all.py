"""Billing of everybody: who spent most, whose wallets are low or owed, pools; and one to look up by its id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import DAY_MS
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.money import cells
from drawdown.server.console.screens.money.wallets import topped_up
from drawdown.worker.topup import lists as topups
from drawdown.worker.topup.lists import Switched
from drawdown.worker.wallets import lists as wallets
from drawdown.worker.wallets.lists import Chosen, Spender, WalletLines
from drawdown.worker.wallets.pools import PoolRow, list_pools

PATH: Final = "/console/billing"
MOST_WALLETS: Final = 10
MOST_POOLS: Final = 20
STALE_MS: Final = 2 * DAY_MS
"""A look at who spent most that is older than this is no news."""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    owed = wallets.page(connection, Chosen("owed"), most=MOST_WALLETS)
    low = wallets.page(connection, Chosen("low"), most=MOST_WALLETS)
    spenders = wallets.spenders_kept(connection)
    pools = list_pools(connection, ask.now_ms, MOST_POOLS)
    tables = [_spenders(spenders, ask.now_ms), _wallets("owed", owed), _wallets("low", low), _pools(pools)]
    filters = [Filter("id", "Customer or organisation")]
    switch = topups.switched(connection)
    tiles = _tiles(topups.open_now(connection), switch, owed, low)
    kill = act("Stop all top-ups", "topup-stop-all", "admin")
    if switch is not None:
        kill = act("Let top-ups go on", "topup-start-all", "admin")
    acts = [act("Give credit", "grant"), kill]
    return shown(Shown(PATH, tables, tiles=tiles, filters=filters, acts=acts))


def _tiles(going: Mapping[str, int], switch: Switched | None, owed: WalletLines, low: WalletLines) -> list[Tile]:
    in_doubt = going.get("in_doubt", 0)
    stopped = "by the kill switch" if switch is None else f"by {switch.actor}, {figures.time(switch.stopped_ms)}"
    return [
        Tile("Wallets that owe", _many(owed), "below nothing", "bad" if owed.lines else ""),
        Tile("Wallets that are low", _many(low), "at their threshold or below", "warn" if low.lines else ""),
        Tile("Top-ups under way", figures.count(sum(going.values()) - in_doubt), "due, or asked for"),
        Tile("Top-ups in doubt", figures.count(in_doubt), "asked, outcome unknown", "bad" if in_doubt else ""),
        Tile("All top-ups", "on" if switch is None else "stopped", "not stopped" if switch is None else stopped,
             "" if switch is None else "bad"),
    ]  # fmt: skip


def _many(found: WalletLines) -> str:
    return f"{len(found.lines):,}" + (" or more" if found.after is not None else "")


def _customer(customer_id: str) -> Cell:
    """With its billing, and a form that gives it credit."""
    return replace(cells.billing(customer_id), links=(act("Give credit", "grant", id=customer_id),))


def _spenders(found: list[Spender], now_ms: int) -> Table:
    rows = [
        (cells.count(one.place), _customer(one.customer_id), cells.credits(one.used_micro),
         cells.balance(one.balance_micro), Cell(one.plan or figures.UNKNOWN, "id", narrow=False))
        for one in found
    ]  # fmt: skip
    heads = ("#Place", "Customer", "#Used", "#Balance now", "Plan")
    note = ""
    if found:
        at = found[0].at_ms
        old = "; that is long ago" if now_ms - at > STALE_MS else ""
        note = (
            f"As of {figures.time(at)} UTC, {figures.ago(at, now_ms)}{old}: what usage and runs were charged since "
            f"{figures.time(found[0].from_ms)}, less what was given back. What tiers cost is not in it."
        )
    none = "Nobody has looked at who spent most yet. It reads all that was charged, so it is looked at nightly."
    return Table(f"High spenders, {wallets.SPENT_DAYS} days", heads, rows, none, "drawdown ledger spenders --keep",
                 note=note)  # fmt: skip


def _wallets(which: str, found: WalletLines) -> Table:
    rows = [
        (_customer(one.customer_id), cells.balance(one.balance_micro), cells.available(one.available_micro),
         Cell(one.plan or figures.UNKNOWN, "id", narrow=False), topped_up(one))
        for one in found.lines
    ]  # fmt: skip
    title = "Wallets that owe, the deepest first" if which == "owed" else "Wallets that are low, the lowest first"
    none = "No wallet owes anything." if which == "owed" else "No wallet is at its threshold or below."
    command = cells.command("ledger", "wallets", "--which", which)
    following = url("/console/ledger", which=which) if found.after is not None else ""
    heads = ("Customer", "#Balance", "#Available", "Plan", "Top-up")
    return Table(title, heads, rows, none, command, following)


def _pools(found: list[PoolRow]) -> Table:
    rows = [
        (cells.billing(one.pool), cells.available(one.available_micro), cells.credits(one.allotted_micro),
         cells.credits(one.returned_micro, narrow=False), cells.count(one.members))
        for one in found
    ]  # fmt: skip
    heads = ("Pool", "#Available", "#Allotted", "#Came back", "#Members")
    none = "There is no pool. A pool is credit that is allotted to several customers."
    command = "drawdown pool list" if rows else "drawdown pool make team-budget"
    return Table("Pools", heads, rows, none, command)
