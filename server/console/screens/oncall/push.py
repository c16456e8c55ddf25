"""One push, from the samples of its window to the provider's answer, the ledger's entry, the verdict that followed and
the cells that were told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from typing import Final

import sqlalchemy as sa

from drawdown.schema.text import typed
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.oncall import cells_of
from drawdown.server.console.screens.oncall.doing.pushes import PROVEN, RETRIED
from drawdown.worker.push.shown import (
    SAMPLES_SHOWN,
    ExplainedPush,
    PushChain,
    PushColumns,
    ShownAttempt,
    chain_of,
    explain_push,
)

PATH: Final = "/console/push"
SAMPLES_OPEN: Final = 12
"""So many are shown at once; more are folded, so that what they lead to is in sight."""
DIGITS: Final = re.compile(r"[0-9]+")
"""By which answers differ that are alike: times and numbers of tries."""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    key = ask.key("key") or ask.required("key")
    found = explain_push(connection, key)
    chain = chain_of(connection, found.push)
    push = found.push
    page = Shown(
        PATH,
        [_attempts(found), *_said(found), _entries(found, chain), _samples(found), *_revisions(found),
         _verdicts(found, chain), *_told(found, chain)],
        tiles=_tiles(found, chain),
        acts=_acts(found),
        query={"key": key},
        said=_sentence(found),
        above=Link(push.org_id, url("/console/org", id=push.org_id, tab="pushes")),
        heading=_heading(push),
    )  # fmt: skip
    return shown(page)


def _heading(push: PushColumns) -> str:
    """Whose, of what and of when; which one, where the window has several."""
    which = f", revision {push.revision}" if push.revision else ""
    return f"{push.org_id}, {push.feature}, {figures.time(push.window_ms)}{which}"


def _acts(found: ExplainedPush) -> list[Link]:
    """What a person may say of it, as it stands."""
    key, state = found.push.key, found.push.state
    links = [act("Send again", "push-retry", keys=key)] if state in RETRIED else []
    if state in PROVEN:
        links.append(act("Say what became of it", "push-resolve", keys=key))
    if state in (*PROVEN, "accepted"):
        word = "Void: lost over there" if state == "accepted" else "Void"
        links.append(act(word, "push-void", keys=key, although="no"))
    return links


def _sentence(found: ExplainedPush) -> str:
    """What is sent, as whom, and what became of it."""
    push, sent = found.push, found.sent_as
    text = f"Sent to {push.provider} as customer {sent.customer}, key {sent.key}, dated {figures.time(sent.ts)} UTC."
    if sent.key != push.key:
        text = f"Push {push.key}. {text}"
    if push.by_hand:
        text += " A person billed it there by hand."
    if push.last_error:
        text += f" Its last error: {push.last_error}"
    return text


def _tiles(found: ExplainedPush, chain: PushChain) -> list[Tile]:
    push = found.push
    in_all = f"in all revisions {figures.count(found.sealed_qty)}; samples {figures.count(found.samples_in_force_qty)}"
    return [
        Tile("State", push.state.replace("_", " "), _since(found), cells_of.TONES.get(push.state, "")),
        _price(found, chain),
        Tile("Sealed", figures.count(push.sealed_qty), in_all, _if_apart(found)),
        Tile("Sent", figures.count(push.sent_qty), f"of {push.feature}, in its provider's unit"),
        Tile("Tries", figures.count(push.attempts), f"looked up {_times(push.lookups)}"),
    ]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _price(found: ExplainedPush, chain: PushChain) -> Tile:
    """What it moved in the ledger here; a dash where that is not known here."""
    if not chain.entries:
        accepted = found.push.state == "accepted"
        return Tile("Price", figures.UNKNOWN, f"{found.push.provider} keeps it" if accepted else "not charged yet")
    price = sum(one.amount_micro for one in chain.entries)
    quantity = found.push.sent_qty
    note = f"credits, for {figures.count(quantity)}"
    if quantity:  # by what was charged: a rate may be set later for a time that is over
        a_unit = Fraction(price, quantity)
        note += f" at {figures.exact(round(a_unit * figures.PRICED))} for {figures.PRICED:,}"
    return Tile("Price", figures.credits(price), note)


def _since(found: ExplainedPush) -> str:
    push = found.push
    if push.settled_ms is not None and push.state not in ("due", "queued"):
        word = "since" if push.state in ("in_doubt", "rejected") else "settled"
        return f"{word} {figures.time(push.settled_ms)}"
    return f"sealed {figures.time(push.sealed_at_ms)}; next at {figures.time(push.due_at_ms)}"


def _if_apart(found: ExplainedPush) -> str:
    """Samples that came or went since are the next revision's."""
    return "warn" if found.samples_in_force_qty != found.sealed_qty else ""


def _samples(found: ExplainedPush) -> Table:
    push = found.push
    rows = [
        (
            cells_of.time(one.ts),
            Cell(one.sandbox_id or figures.UNKNOWN, "id"),
            Cell(one.event_type, "id") if one.event_type else cells_of.number(one.memory_mb),
            cells_of.number(one.interval_s),
            cells_of.cell(one.cell_id, narrow=False) if one.cell_id else Cell(figures.UNKNOWN, narrow=False),
            Cell(*(("withdrawn", "state", "warn") if one.withdrawn else ("in force", ""))),
            Cell(one.id, "id", narrow=False),
        )
        for one in found.samples
    ]
    heads = ("At, UTC", "Sandbox", "#MB, or event", "#Seconds, or units", "Cell", "Standing", "Sample")
    none = "No sample is left of this window: they were pruned, or all that it is for came otherwise."
    note = f"The first {SAMPLES_SHOWN:,}; the figures above are of all." if len(rows) == SAMPLES_SHOWN else ""
    title = f"Samples of {figures.time(push.window_ms)} that make {push.feature}"
    folded = f"{len(rows):,} samples" if len(rows) > SAMPLES_OPEN else ""
    return Table(title, heads, rows, none, f"drawdown push show {typed(push.key)}", note=note, folded=folded)


def _revisions(found: ExplainedPush) -> list[Table]:
    """Where there is another one."""
    rows = [
        (
            Cell(str(one.revision)),
            Cell(one.key, "id") if one.key == found.push.key else cells_of.push(one.key),
            cells_of.state(one.state),
            cells_of.number(one.sealed_qty),
            cells_of.number(one.sent_qty, narrow=False),
            cells_of.time(one.sealed_at_ms, narrow=False),
        )
        for one in found.revisions
    ]
    heads = ("Revision", "Push", "State", "#Sealed", "#Sent", "Sealed, UTC")
    table = Table("Revisions of this window", heads, rows, "", f"drawdown push show {typed(found.push.key)}")
    return [table] if len(rows) > 1 else []


def _attempts(found: ExplainedPush) -> Table:
    push = found.push
    alike = groupby(found.attempts, lambda one: (one.outcome, DIGITS.sub("", one.detail or "")))
    rows = [_sends(list(attempts)) for _, attempts in alike]
    note = ""
    if push.lookups:
        answer = "no answer yet" if push.lookup_answer is None else push.lookup_answer.replace("_", " ")
        at = figures.time(push.looked_up_ms)
        note = f"Looked up at {push.provider} {_times(push.lookups)}; the last answer, {at}: {answer}."
    heads = ("No.", "Began, UTC", "#Took at most, ms", "Answer", "What was said")
    none = "It was never sent: the next tick sends what is due."
    return Table(
        "Sends, and the provider's answer", heads, rows, none, f"drawdown push show {typed(push.key)}", note=note
    )


def _sends(alike: list[ShownAttempt]) -> tuple[Cell, ...]:
    """Sends one after the other that ended the same way are one row, with what was said last."""
    first, last = alike[0], alike[-1]
    took = [one.finished_ms - one.started_ms for one in alike if one.finished_ms is not None]
    number = str(first.attempt) if first is last else f"{first.attempt} to {last.attempt}"
    outcome = first.outcome or "no answer was seen"
    return (
        Cell(number),
        replace(
            cells_of.time(first.started_ms),
            under="" if first is last else f"the last {figures.time(last.started_ms)}",
        ),
        Cell(f"{max(took):,}" if took else figures.UNKNOWN, "number"),
        Cell(outcome, "state", cells_of.TONES.get(outcome, "" if first.outcome == "accepted" else "warn")),
        cells_of.said(last.detail, narrow=True),
    )


def _said(found: ExplainedPush) -> list[Table]:
    """A person's or a look-up's word, where there is one."""
    words = [("voided", found.void)] if found.void else []
    rows = [
        (cells_of.time(one.at_ms), Cell("voided"), Cell(one.evidence_kind), cells_of.said(one.evidence, narrow=True),
         Cell(one.actor, "id", narrow=False), cells_of.said(one.reason))
        for _, one in words
    ]  # fmt: skip
    if (other := found.adoption) is not None:
        rows.append(
            (cells_of.time(other.at_ms), Cell("adopted"), Cell(other.kind), cells_of.said(other.evidence, narrow=True),
             Cell(other.actor, "id", narrow=False), cells_of.said(other.reason))
        )  # fmt: skip
    heads = ("At, UTC", "What", "Kind", "Evidence", "Who", "Why")
    table = Table("What was said of it", heads, rows, "", f"drawdown push show {typed(found.push.key)}")
    return [table] if rows else []


def _account(name: str) -> Cell:
    """A wallet leads to its page."""
    kind, _, customer = name.partition(":")
    return Cell(name, "id", href=url("/console/wallet", id=customer) if kind == "wallet" else "")


def _entries(found: ExplainedPush, chain: PushChain) -> Table:
    customer = found.push.customer_id
    rows = [
        (
            cells_of.time(one.at_ms),
            Cell(one.kind),
            _account(one.from_account),
            replace(_account(one.to_account), narrow=False),
            Cell(figures.exact(one.amount_micro), "number"),
            Cell(one.key, "id", narrow=False),
        )
        for one in chain.entries
    ]
    heads = ("Booked, UTC", "Kind", "From", "To", "#Credits", "Entry")
    none = (
        "It is not accepted yet." if found.push.state != "accepted"
        else f"The ledger here has none: {found.push.provider} keeps this customer's balance."
    )  # fmt: skip
    return Table("Entry in the ledger", heads, rows, none, f"drawdown ledger show {typed(customer)}")


def _verdicts(found: ExplainedPush, chain: PushChain) -> Table:
    rows = [
        (
            cells_of.time(one.at_ms),
            Cell(*(("halted", "state", "bad") if one.is_halted else ("open", "state"))),
            cells_of.said(one.reason, narrow=True),
            cells_of.amount(one.balance_micro),
        )
        for one in chain.verdicts
    ]
    none = "No verdict was written yet: the first read at its provider writes one."
    heads = ("At, UTC", "Verdict", "Reason", "#Balance")
    title = "The verdict when it was settled, and those that came next"
    return Table(title, heads, rows, none, f"drawdown org show {typed(found.push.org_id)}")


def _told(found: ExplainedPush, chain: PushChain) -> list[Table]:
    """Where a verdict above halts it."""
    rows = [
        (
            cells_of.time(one.halted_at),
            cells_of.cell(one.cell_id),
            cells_of.told(one.halted_at, one.acked_at_ms),
            cells_of.number(one.attempts, narrow=False),
            cells_of.said(one.last_error),
        )
        for one in chain.told
    ]
    heads = ("Halted, UTC", "Cell", "Answer", "#Tries", "Error")
    none = "No cell was told: none ran sandboxes of it."
    table = Table("Cells that were told", heads, rows, none, f"drawdown org show {typed(found.push.org_id)}")
    return [table] if any(one.is_halted for one in chain.verdicts) else []
