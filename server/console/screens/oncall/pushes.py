"""Show open pushes, other pushes that match the filter, and one push.

The page of a push leads from its samples to the provider's response, the ledger's entry, the next verdict and the
notified cells. A person acts on pushes by their keys, or on all pushes of a filter after they confirm the shown count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from typing import Final

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.declare import Fact, Size, WrongField
from drawdown.schema.errors import Refused
from drawdown.schema.push_states import OPEN
from drawdown.schema.text import typed
from drawdown.server.console.action import Action, ActionResult, Doing, Field, Look, evidence_of
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import command, url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.actions import Chosen
from drawdown.worker.push.explanation import (
    SAMPLES_SHOWN,
    ExplainedPush,
    PushChain,
    PushColumns,
    ShownAttempt,
    chain_of,
    explain_push,
)
from drawdown.worker.push.faces import PROVEN, RETRIED, SEALED_AGAIN
from drawdown.worker.push.lists import (
    FOR_PEOPLE,
    MOST_LOOKED_AT,
    STATES,
    OpenSum,
    PushFilter,
    PushLine,
    WaitSums,
    every_push,
    list_pushes,
    open_sums,
    wait_sums,
)
from drawdown.worker.push.rows import PushRow, find_pushes
from drawdown.worker.usage.withdrawals import worth_of_pushes
from drawdown.worker.verdict.rates import size_of

PATH: Final = "/console/pushes"
HEADS: Final = (
    "Window, UTC", "Organisation", "Feature", "#Sealed", "#Sent", "Provider", "State", "Next attempt, UTC", "#Attempts",
    "Error",
)  # fmt: skip
FILTERS: Final = ("state", "provider", "org", "feature", "from", "to", "why")
TRIED: Final = ("due", "queued")
CUT: Final = f"This page searched {MOST_LOOKED_AT:,} pushes. The next page continues."
MOST_CHOICE: Final = 60
"""Characters of a reason that the filter of pushes shows."""
COLUMNS: Final = (
    "key", "window", "org_id", "feature", "provider", "customer_id", "state", "last_error", "revision", "sealed",
    "sent", "attempts",
)  # fmt: skip


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen = _chosen(connection, ask)
    reasons = wait_sums(connection)
    found = list_pushes(connection, chosen, ask.now_ms, ask.key("after"))
    sums = open_sums(connection)
    query = {name: ask.query[name] for name in FILTERS if ask.query.get(name)}
    listed = Table(
        f"Pushes: {STATE_WORDS[chosen.state]}",
        HEADS,
        [_row(one) for one in found.lines],
        "No push matches the filter."
        if query
        else "No push is open, because every push is settled. Sealed usage creates new pushes.",
        _command(query),
        next="" if found.next_after is None else url(PATH, **query, after=found.next_after),
        note=" ".join(filter(None, (_order(chosen), CUT if found.is_cut else ""))),
        first=url(PATH, **query) if ask.key("after") else "",
    )
    tables = [listed] if ask.query.get("after") else [_why(reasons, ask.now_ms), _sums(sums), listed]
    return to_context(
        PageContent(
            PATH,
            tables,
            tiles=_tiles(sums),
            filters=_filters(ask, chosen, reasons),
            acts=_acts(chosen, sums),
            query=query,
            file=url(f"{PATH}.csv", **query),
        )
    )


STATE_WORDS: Final[dict[str, str]] = {
    "open": "open",
    "any": "all",
    **{name: name.replace("_", " ") for name in STATES[1:-1]},
}


def _row(one: PushLine) -> tuple[Cell, ...]:
    return (
        Cell(figures.time(one.window_ms), "time", href=url("/console/push", key=one.key)),
        cells_of.org(one.org_id, "pushes"),
        Cell(one.feature, "id"),
        cells_of.number(one.sealed_qty, narrow=False),
        cells_of.number(one.sent_qty),
        Cell(one.provider, "id", narrow=False),
        cells_of.state(one.state),
        cells_of.time(one.due_at_ms if one.state in TRIED else None, narrow=False),
        cells_of.number(one.attempts, narrow=False),
        cells_of.text_cell(one.last_error, narrow=True),
    )


def _order(chosen: PushFilter) -> str:
    """Return the order of the list, in words."""
    if chosen.org or not chosen.is_open:
        return "The latest window first."
    if chosen.state in FOR_PEOPLE:
        return "The oldest window first."
    tried = "by provider, the next attempt first"
    if chosen.state == "open":
        return f"In doubt first, then rejected, both with the oldest window first. Then due and queued, {tried}."
    return f"Ordered {tried}."


def _acts(chosen: PushFilter, sums: list[OpenSum]) -> list[Link]:
    """Return the actions on all pushes of the filter, with their count.

    A filter by more than state and provider has no actions, because the commands do not support such a filter.
    """
    if chosen.feature or chosen.org or chosen.why or chosen.from_ms is not None or chosen.to_ms is not None:
        return []
    of_provider = [one for one in sums if chosen.provider in ("", one.provider) and one.state == chosen.state]
    count = sum(one.pushes for one in of_provider)
    if not count:
        return []

    def all_of(text: str, name: str) -> Link:
        return act(text, name, state=chosen.state, provider=chosen.provider, expect=count)

    found = [all_of("Send all again", "push-retry")] if chosen.state in RETRIED else []
    if chosen.state in PROVEN:
        found += [all_of("Record outcome of all", "push-resolve"), all_of("Void all", "push-void")]
    return found


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the pushes of the filter as lines of CSV, the heads first."""
    chosen = _chosen(connection, ask)
    yield csv_line(COLUMNS)
    for one in every_push(connection, chosen, ask.now_ms):
        texts = (one.key, figures.iso(one.window_ms), one.org_id, one.feature, one.provider, one.customer_id, one.state)
        yield csv_line((*texts, one.last_error), (one.revision, one.sealed_qty, one.sent_qty, one.attempts))


def _chosen(connection: sa.Connection, ask: Ask) -> PushFilter:
    """Return the filter.

    Errors: UsageError; UnknownId for a provider that never billed a customer.
    """
    provider = ask.text("provider")
    if provider:
        ids.require(connection, ids.PROVIDER, provider)
    return PushFilter(
        ask.choice("state", STATES),
        provider,
        ask.text("org"),
        ask.text("feature"),
        ask.moment("from"),
        ask.moment("to"),
        ask.place_text("why"),
    )


def _filters(ask: Ask, chosen: PushFilter, reasons: WaitSums) -> tuple[Filter, ...]:
    why = dict.fromkeys(one.error for one in reasons.sums)
    return (
        Filter("state", "State", "" if chosen.state == "open" else chosen.state,
               [("" if one == "open" else one, STATE_WORDS[one]) for one in STATES]),
        Filter("provider", "Provider", chosen.provider),
        Filter("org", "Organisation", chosen.org),
        Filter("feature", "Feature", chosen.feature),
        Filter("from", "Windows from, UTC", ask.query.get("from", "")),
        Filter("to", "Windows to, UTC", ask.query.get("to", "")),
        Filter("why", "Reason", chosen.why, [("", "any"), *((one, one[:MOST_CHOICE]) for one in why)]),
    )  # fmt: skip


def _tiles(sums: list[OpenSum]) -> list[Tile]:
    found = []
    for name, state in OPEN.items():
        count = sum(one.pushes for one in sums if one.state == name)
        tone = state.tone if count else ""
        found.append(Tile(state.title, figures.count(count), state.meaning, tone, url(PATH, state=name)))
    return found


def _why(reasons: WaitSums, now_ms: int) -> Table:
    """Return the table of reasons of open pushes. Each row links to its pushes."""
    rows = [
        (
            cells_of.state(one.state),
            cells_of.text_cell(one.error, narrow=True),
            Cell(one.provider, "id"),
            Cell(
                figures.count(one.pushes),
                "number",
                href=url(PATH, state=one.state, provider=one.provider, why=one.error),
            ),
            Cell(figures.time(one.oldest_ms), "time", under=figures.ago(one.oldest_ms, now_ms)),
            cells_of.time(one.next_ms, narrow=False),
        )
        for one in reasons.sums
    ]
    heads = ("State", "Reason", "Provider", "#Pushes", "Oldest window, UTC", "Next attempt, UTC")
    note = f"This table shows {len(rows)} reasons, and more exist." if reasons.more else ""
    return Table("Causes", heads, rows, "No push is open.", "drawdown push list", note=note)


def _sums(sums: list[OpenSum]) -> Table:
    rows = [
        (
            Cell(one.provider, "id"),
            cells_of.state(one.state),
            Cell(one.feature, "id"),
            Cell(
                figures.count(one.pushes),
                "number",
                href=url(PATH, state=one.state, provider=one.provider, feature=one.feature),
            ),
            cells_of.number(one.quantity),
            cells_of.time(one.oldest_ms, narrow=False),
        )
        for one in sums
    ]
    heads = ("Provider", "State", "Feature", "#Pushes", "#Quantity", "Oldest sealed, UTC")
    folded = "By provider, state and feature" if rows else ""
    return Table("Open pushes", heads, rows, "No push is open.", "drawdown push list", folded=folded)


def _command(query: Mapping[str, str]) -> str:
    return command("push", "list", *(word for name, value in query.items() for word in (f"--{name}", value)))


PUSH_PATH: Final = "/console/push"
SAMPLES_OPEN: Final = 12
"""Number of samples up to which the table is open.

A longer table starts closed, so that the next tables stay in view.
"""
DIGITS: Final = re.compile(r"[0-9]+")
"""Matches numbers.

Responses that differ only in numbers, such as times, share a row.
"""


def read_one(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    key = ask.key("key") or ask.required("key")
    found = explain_push(connection, key)
    chain = chain_of(connection, found.push)
    push = found.push
    page = PageContent(
        PUSH_PATH,
        [_attempts(found), *_void_tables(found), _entries(found, chain), _samples(found), *_revisions(found),
         _verdicts(found, chain), *_halt_tables(found, chain)],
        tiles=_tiles_of_one(found, chain),
        acts=_acts_of_one(found),
        query={"key": key},
        note=_sentence(found),
        above=Link(push.org_id, url("/console/org", id=push.org_id, tab="pushes")),
        heading=_heading(push),
    )  # fmt: skip
    return to_context(page)


def _heading(push: PushColumns) -> str:
    """Return the heading of a push: organisation, feature, window and revision.

    The heading omits the first revision.
    """
    which = f", revision {push.revision}" if push.revision else ""
    return f"{push.org_id}, {push.feature}, {figures.time(push.window_ms)}{which}"


def _acts_of_one(found: ExplainedPush) -> list[Link]:
    """Return the actions on a push, by its state."""
    key, state = found.push.key, found.push.state
    links = [act("Send again", "push-retry", keys=key)] if state in RETRIED else []
    if state in PROVEN:
        links.append(act("Record outcome", "push-resolve", keys=key))
    if state in (*PROVEN, "accepted"):
        word = "Void: lost at provider" if state == "accepted" else "Void"
        links.append(act(word, "push-void", keys=key, although="no"))
    return links


def _sentence(found: ExplainedPush) -> str:
    """Return the text below the heading.

    It has the customer, key and time that were sent, and the last error.
    """
    push, sent = found.push, found.sent_as
    text = f"Sent to {push.provider} as customer {sent.customer}, key {sent.key}, dated {figures.time(sent.ts)} UTC."
    if sent.key != push.key:
        text = f"Push {push.key}. {text}"
    if push.by_hand:
        text += " A person billed this push at the provider."
    if push.last_error:
        text += f" Last error: {push.last_error}"
    return text


def _tiles_of_one(found: ExplainedPush, chain: PushChain) -> list[Tile]:
    push = found.push
    in_all = f"in all revisions {figures.count(found.sealed_qty)}; samples {figures.count(found.samples_in_force_qty)}"
    return [
        Tile("State", push.state.replace("_", " "), _since(found), cells_of.TONES.get(push.state, "")),
        _price(found, chain),
        Tile("Sealed", figures.count(push.sealed_qty), in_all, _if_apart(found)),
        Tile("Sent", figures.count(push.sent_qty), f"of {push.feature}, in its provider's unit"),
        Tile("Attempts", figures.count(push.attempts), f"looked up {_times(push.lookups)}"),
    ]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _price(found: ExplainedPush, chain: PushChain) -> Tile:
    """Return the tile of the push's charge in Drawdown's ledger.

    The tile has a dash if the ledger does not have a charge.
    """
    if not chain.entries:
        accepted = found.push.state == "accepted"
        return Tile("Price", figures.UNKNOWN, f"known at {found.push.provider}" if accepted else "not charged yet")
    price = sum(one.amount_micro for one in chain.entries)
    quantity = found.push.sent_qty
    note = f"credits, for {figures.count(quantity)}"
    if quantity:  # the rate of this charge, because a later rate may differ
        a_unit = Fraction(price, quantity)
        note += f" at {figures.exact(round(a_unit * figures.PRICED))} for {figures.PRICED:,}"
    return Tile("Price", figures.credits(price), note)


def _since(found: ExplainedPush) -> str:
    push = found.push
    if push.settled_ms is not None and push.state not in ("due", "queued"):
        word = "since" if push.state in ("in_doubt", "rejected") else "settled"
        return f"{word} {figures.time(push.settled_ms)}"
    return f"sealed {figures.time(push.sealed_at_ms)}; next attempt {figures.time(push.due_at_ms)}"


def _if_apart(found: ExplainedPush) -> str:
    """Return `warn` if the samples in force differ from the sealed quantity; else ''.

    The next revision bills the difference.
    """
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
    heads = ("Time, UTC", "Sandbox", "#MB or event", "#Seconds or units", "Cell", "State", "Sample")
    none = "This window does not have samples. Drawdown pruned them, or the usage has another source."
    note = (
        f"This table shows the first {SAMPLES_SHOWN:,} samples. The figures above count all."
        if len(rows) == SAMPLES_SHOWN
        else ""
    )
    title = f"Samples of {push.feature}, window {figures.time(push.window_ms)}"
    folded = f"{len(rows):,} samples" if len(rows) > SAMPLES_OPEN else ""
    return Table(title, heads, rows, none, f"drawdown push show {typed(push.key)}", note=note, folded=folded)


def _revisions(found: ExplainedPush) -> list[Table]:
    """Return the table of the window's revisions, if it has several."""
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
        answer = "The provider has not responded yet."
        if push.lookup_answer is not None:
            answer = f"Last response at {figures.time(push.looked_up_ms)}: {push.lookup_answer.replace('_', ' ')}."
        note = f"Looked up at {push.provider} {_times(push.lookups)}. {answer}"
    heads = ("Number", "Started, UTC", "#Longest, ms", "Answer", "Message")
    none = "No attempt exists yet. The next tick sends due pushes."
    return Table("Attempts and responses", heads, rows, none, f"drawdown push show {typed(push.key)}", note=note)


def _sends(alike: list[ShownAttempt]) -> tuple[Cell, ...]:
    """Return one row for successive sends with the same outcome, and the last message."""
    first, last = alike[0], alike[-1]
    took = [one.finished_ms - one.started_ms for one in alike if one.finished_ms is not None]
    number = str(first.attempt) if first is last else f"{first.attempt} to {last.attempt}"
    outcome = first.outcome or "no response seen"
    return (
        Cell(number),
        replace(
            cells_of.time(first.started_ms),
            under="" if first is last else f"the last {figures.time(last.started_ms)}",
        ),
        Cell(f"{max(took):,}" if took else figures.UNKNOWN, "number"),
        Cell(outcome, "state", cells_of.TONES.get(outcome, "" if first.outcome == "accepted" else "warn")),
        cells_of.text_cell(last.detail, narrow=True),
    )


def _void_tables(found: ExplainedPush) -> list[Table]:
    """Return the table with the evidence of the push's void or adoption, if any."""
    words = [("voided", found.void)] if found.void else []
    rows = [
        (cells_of.time(one.at_ms), Cell("voided"), Cell(one.evidence_kind),
         cells_of.text_cell(one.evidence, narrow=True), Cell(one.actor, "id", narrow=False),
         cells_of.text_cell(one.reason))
        for _, one in words
    ]  # fmt: skip
    if (other := found.adoption) is not None:
        rows.append(
            (cells_of.time(other.at_ms), Cell("adopted"), Cell(other.kind),
             cells_of.text_cell(other.evidence, narrow=True), Cell(other.actor, "id", narrow=False),
             cells_of.text_cell(other.reason))
        )  # fmt: skip
    heads = ("Time, UTC", "Outcome", "Kind", "Evidence", "Actor", "Reason")
    table = Table("Provider's responses", heads, rows, "", f"drawdown push show {typed(found.push.key)}")
    return [table] if rows else []


def _account(name: str) -> Cell:
    """Return the cell of an account. A wallet links to its page."""
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
        "No entry exists, because the provider has not accepted the push." if found.push.state != "accepted"
        else f"No entry exists here, because {found.push.provider} keeps this customer's balance."
    )  # fmt: skip
    return Table("Ledger entries", heads, rows, none, f"drawdown ledger show {typed(customer)}")


def _verdicts(found: ExplainedPush, chain: PushChain) -> Table:
    rows = [
        (
            cells_of.time(one.at_ms),
            Cell(*(("halted", "state", "bad") if one.is_halted else ("open", "state"))),
            cells_of.text_cell(one.reason, narrow=True),
            cells_of.amount(one.balance_micro),
        )
        for one in chain.verdicts
    ]
    none = "No verdict exists yet. The first read at its provider writes one."
    heads = ("Time, UTC", "Verdict", "Reason", "#Balance")
    title = "Verdicts at settlement and after"
    return Table(title, heads, rows, none, f"drawdown org show {typed(found.push.org_id)}")


def _halt_tables(found: ExplainedPush, chain: PushChain) -> list[Table]:
    """Return the table of notified cells, if a shown verdict halts the organisation."""
    rows = [
        (
            cells_of.time(one.halted_at),
            cells_of.cell(one.cell_id),
            cells_of.answer_cell(one.halted_at, one.acked_at_ms, one.due_at_ms),
            cells_of.number(one.attempts, narrow=False),
            cells_of.text_cell(one.last_error),
        )
        for one in chain.told
    ]
    heads = ("Halted, UTC", "Cell", "Answer", "#Attempts", "Error")
    none = "No cell received a halt, because no cell ran sandboxes of this organisation."
    table = Table("Notified cells", heads, rows, none, f"drawdown org show {typed(found.push.org_id)}")
    return [table] if any(one.is_halted for one in chain.verdicts) else []


def _choosing(states: Sequence[str]) -> tuple[Field, ...]:
    """Return the fields of a form that choose pushes."""
    words = [("", "by key"), *((one, f"all {one.replace('_', ' ')}") for one in states)]
    seen = "The action fails if the count differs."
    return (
        Field(
            "keys",
            "Pushes",
            hint="Push keys, one on each line, in place of the filters below.",
            optional=True,
            many=True,
        ),
        Field("state", "State", "choice", choices=words, optional=True, unless="keys"),
        Field("org", "Organisation", optional=True, unless="keys"),
        Field("provider", "Provider", optional=True, unless="keys"),
        Field("error", "Text in the last error", optional=True, unless="keys"),
        Field("expect", "Expected count", "number", seen, optional=True, unless="keys"),
    )


def _chosen_by_form(doing: Doing, expect: int | None = None) -> Chosen:
    state = doing.values.get("state", "")
    names = doing.texts("keys") or None
    return Chosen(
        names, [state] if state else None, doing.text("org"), doing.text("provider"), doing.text("error"), expect
    )


def _find(connection: sa.Connection, doing: Doing, states: Sequence[str]) -> list[str]:
    found = _chosen_by_form(doing, doing.number("expect")).find(connection, states)
    if not found:
        raise Refused("no push matches the keys or filters. Change the keys or filters")
    return found


def _options(doing: Doing) -> list[str]:
    chosen, expect = _chosen_by_form(doing), doing.number("expect")
    found = list(chosen.keys or ())
    for state in chosen.states or ():
        found += ["--state", state]
    for name, value in (("org", chosen.org), ("provider", chosen.provider), ("error", chosen.error)):
        found += [f"--{name}", value] if value else []
    return [*found, *([] if expect is None else ["--expect", str(expect)])]


def _standing(states: Sequence[str]) -> Look:
    def look(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
        chosen = _chosen_by_form(doing)
        keys = chosen.find(connection, states)
        there = find_pushes(connection, keys)
        return [Fact(key, there[key].state.replace("_", " ")) for key in sorted(there)]

    return look


def _worth(connection: sa.Connection, doing: Doing) -> Size:
    """Return the size of an action that resolves pushes.

    The size counts the rows of the pushes, and the credit of their usage.
    """
    keys = _find(connection, doing, PROVEN)
    return size_of(worth_of_pushes(connection, keys), len(keys))


def _sized(states: Sequence[str]) -> Callable[[sa.Connection, Doing], Size]:
    def size(connection: sa.Connection, doing: Doing) -> Size:
        return Size(rows=len(_find(connection, doing, states)))

    return size


def _place(doing: Doing) -> str:
    keys = doing.texts("keys")
    return url("/console/push", key=keys[0]) if len(keys) == 1 else "/console/pushes"


def _retry(connection: sa.Connection, doing: Doing) -> ActionResult:
    done = pushes.retry(connection, _find(connection, doing, RETRIED), doing.by)
    return ActionResult(f"the next tick sends {len(done):,} again, and rejected usage under its next revision")


def _resolve(connection: sa.Connection, doing: Doing) -> ActionResult:
    accepted, evidence = doing.values["outcome"] == "accepted", evidence_of(doing)
    work = pushes.resolve_accepted if accepted else pushes.void
    done = work(connection, _find(connection, doing, PROVEN), doing.by, evidence)
    return ActionResult(f"{len(done):,} {'accepted' if accepted else 'voided; their usage is owed again'}")


def _void(connection: sa.Connection, doing: Doing) -> ActionResult:
    also = doing.values["although"] == "yes"
    if also and not doing.texts("keys"):
        raise WrongField(
            "although", "specify each accepted push by its key, because filters do not find accepted pushes"
        )
    keys = _find(connection, doing, PROVEN)
    lost = _require_no_lookup(connection, doing, keys) if also else None
    done = pushes.void(connection, keys, doing.by, evidence_of(doing), lost=lost)
    return ActionResult(f"{len(done):,} voided; {SEALED_AGAIN}")


def _require_no_lookup(connection: sa.Connection, doing: Doing, keys: Sequence[str]) -> list[PushRow]:
    """Return the pushes if the console can void them without a lookup.

    Errors: Refused if a push is accepted, and its provider may support lookups.
    """
    found = list(find_pushes(connection, keys).values())
    for push in found:
        can = doing.declared.get(str(push.provider))
        if push.state == "accepted" and push.provider != EMBEDDED and (can is None or can.lookup):
            raise Refused(
                f"cannot void {push.key}: it is accepted, and the console does not look it up at {push.provider}. "
                f"Run `{typed('drawdown', 'push', 'void-lost', str(push.key), '--evidence', evidence_of(doing))}`"
            )
    return found


EVIDENCE: Final = Field(
    "evidence", "Evidence", hint="Evidence such as the provider's console or a ticket, kept for good."
)
RETRY: Final = Action(
    "push-retry",
    "Send again",
    _choosing(RETRIED),
    _retry,
    _standing(RETRIED),
    lambda doing: ["push", "retry", *_options(doing)],
    _place,
    "Drawdown sends due pushes at once under their own keys. It voids rejected pushes, and the next "
    "tick seals their usage again.",
    size=_sized(RETRIED),
)
RESOLVE: Final = Action(
    "push-resolve",
    "Record outcome",
    (
        *_choosing(PROVEN),
        Field(
            "outcome",
            "Outcome at the provider",
            "choice",
            choices=[
                ("", "choose one"), ("accepted", "charged: accept the push"), ("absent", "not charged: void the push"),
            ],
        ),
        EVIDENCE,
    ),
    _resolve,
    _standing(PROVEN),
    lambda doing: [
        "push", "resolve", *_options(doing), "--outcome", doing.values["outcome"], "--evidence", evidence_of(doing),
    ],
    _place,
    "A push in doubt was sent, and its outcome is unknown. First look it up in the provider's console.",
    size=_worth,
)  # fmt: skip
VOID: Final = Action(
    "push-void",
    "Void",
    (
        *_choosing(PROVEN),
        EVIDENCE,
        Field(
            "although",
            "Accepted pushes",
            "choice",
            "Use yes only if the provider lost or refunded the push. If it supports lookups, run the command instead.",
            choices=[("no", "not among them"), ("yes", "may be among them")],
        ),
    ),
    _void,
    _standing(PROVEN),
    lambda doing: [
        "push", "void-lost" if doing.values["although"] == "yes" else "void", *_options(doing),
        "--evidence", evidence_of(doing),
    ],
    _place,
    "Void pushes that their provider did not charge, lost or refunded. Drawdown bills their usage again, under the "
    "next revision.",
    size=_worth,
)  # fmt: skip
ACTIONS: Final = (RETRY, RESOLVE, VOID)
