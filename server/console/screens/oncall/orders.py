"""Orders: what a tick is to do, how far each is, what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import join
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.orders.lists import OrderRow, count_open, list_orders

PATH: Final = "/console/orders"
PAGE_ROWS: Final = 50
TONES: Final = {"waiting": "warn", "under way": "warn", "failed": "bad"}
SAID: Final = "Ticks do what is ordered, one after the other, the oldest first. What is done twice bills nothing twice."


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    before = ask.whole("before")
    found = list_orders(connection, most=PAGE_ROWS + 1, before=before)
    rows = [_row(one, ask.now_ms) for one in found[:PAGE_ROWS]]
    following = url(PATH, before=found[PAGE_ROWS - 1].order_id) if len(found) > PAGE_ROWS else ""
    waiting = count_open(connection)
    heads = ("#Order", "Kind", "State", "What", "By", "Why", "Since, UTC", "Progress", "What became of it", "By hand")
    none, command = "Nothing was ordered yet.", "drawdown order list"
    if not rows:
        command = "drawdown replay --all --from 2026-06-01 --to 2026-06-02 --later --reason 'late samples'"
    first = "" if before is None else PATH
    page = Shown(
        PATH,
        [Table("Orders, the latest first", heads, rows, none, command, following, first=first)],
        tiles=[Tile("Open", figures.count(waiting), "wait, or are under way", "warn" if waiting else "")],
        acts=[act("Order a replay", "replay")],
        query={} if before is None else {"before": before},
        said=SAID,
    )
    return shown(page)


def _row(one: OrderRow, now_ms: int) -> tuple[Cell, ...]:
    state = one.state_in_words
    links = (act("Cancel", "order-cancel", order=one.order_id),) if one.state == "waiting" else ()
    since = one.ended_ms or one.began_ms or one.at_ms
    sealed = f", {one.pushes:,} sealed" if one.pushes else ""
    return (
        Cell(figures.count(one.order_id), "number", links=links),
        Cell(one.kind, narrow=False),
        Cell(state, "state", TONES.get(state, "")),
        cells_of.said(one.what, narrow=True),
        Cell(one.actor, "id", narrow=False),
        cells_of.said(one.reason),
        Cell(figures.time(since), "time", narrow=False, under=figures.ago(since, now_ms)),
        Cell(f"{one.progress}{sealed}" or figures.UNKNOWN, narrow=False),
        cells_of.said(one.said),
        cells_of.said(join(["drawdown", *one.command])),
    )
