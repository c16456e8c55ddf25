"""Show pending usage by reason and by organisation, and usage without a feature.

It also shows quarantined samples. Each reason has its fix, such as to assign an organisation, map a feature, or correct
a sample's time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import require_org
from drawdown.schema.declare import Fact, Size, WrongField
from drawdown.schema.errors import Refused
from drawdown.schema.pending import REASONS
from drawdown.schema.text import counted, quote_value, typed
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import EXEMPT_PROVIDERS, WINDOW_MS
from drawdown.server.console.action import Action, ActionResult, Doing, Field
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.features.lists import UnmappedEvent, UnmappedSize, unmapped_events, unmapped_sizes
from drawdown.worker.jobs.assign_action import WouldHalt, assign_here
from drawdown.worker.orgs import assignments
from drawdown.worker.orgs.flips import FlipOptions, Wish
from drawdown.worker.sources.samples.quarantine import QuarantineFilter, SampleRow, list_quarantined, require_reason
from drawdown.worker.status import status
from drawdown.worker.status.backlog import quarantined
from drawdown.worker.status.status import Beside, PendingOrg, PendingPage
from drawdown.worker.status.system_state import PendingUsage, how_much
from drawdown.worker.usage import quarantined as fixing

PATH: Final = "/console/pending"
MOST_QUARANTINED: Final = 50
"""Quarantined samples on one page."""
LATE: Final = "below_floor"


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    reason, why = ask.choice("reason", ("", *REASONS)), ask.text("why")
    after_sample = ask.place_text("after_sample")
    reasons = status.reasons(connection)
    beside = status.beside(connection, ask.now_ms)
    held = quarantined(connection)
    if why and why not in held:
        require_reason(connection, why)
    orgs = status.page(connection, reason, ask.text("after"))
    samples = list_quarantined(
        connection,
        QuarantineFilter(reason=why),
        ask.now_ms,
        after=after_sample,
        most=MOST_QUARANTINED,
    )
    query = {name: value for name, value in (("reason", reason), ("why", why)) if value}
    tables = [_orgs(orgs, reason, query, ask.text("after")),
              _quarantine(samples.samples, samples.next_after, query, after_sample)]  # fmt: skip
    if not ask.text("after") and not after_sample:
        unmapped = _unmapped(unmapped_sizes(connection), unmapped_events(connection))
        tables = [_reasons(reasons, held, beside), tables[0], unmapped, tables[1]]
    filters = (
        Filter("reason", "Reason", reason, [("", "any reason"), *((name, one.what) for name, one in REASONS.items())]),
        Filter(
            "why",
            "Quarantine reason",
            why,
            [("", "any reason"), *((name, _words(name)) for name in sorted({*held, *([why] if why else [])}))],
        ),
    )
    return to_context(PageContent(PATH, tables, tiles=_tiles(reasons, held, beside), filters=filters, query=query))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _tiles(reasons: list[PendingUsage], held: Mapping[str, int], beside: Beside) -> list[Tile]:
    seconds, units = sum(one.seconds for one in reasons), sum(one.units for one in reasons)
    samples = sum(held.values())

    def tile(name: str, count: int, said: str) -> Tile:
        return Tile(name, figures.count(count), said, "warn" if count else "")

    return [
        tile("Seconds pending", seconds, "of sandboxes, not billed yet"),
        tile("Units pending", units, "of event types, not billed yet"),
        tile("Quarantined", samples, f"samples that cannot be billed; {beside.late:,} too late, below a floor"),
        tile("Windows to seal again", beside.dirty_windows, "by the next tick"),
        tile("Future samples", beside.dated_ahead, "samples, billed when their time comes"),
    ]


def _reasons(reasons: list[PendingUsage], held: Mapping[str, int], beside: Beside) -> Table:
    rows = [
        (
            Cell(REASONS[one.reason].what, href=url(PATH, reason=one.reason)),
            Cell(how_much(one), "number"),
            cells_of.number(one.orgs),
            cells_of.time(one.since_ms, narrow=False),
            Cell(REASONS[one.reason].fix, "step"),
        )
        for one in reasons
    ]
    for name, samples in held.items():
        fix = (
            f"drawdown sample dismiss --why {name}"
            if name == LATE
            else f"drawdown sample repair --why {name}; if the time cannot be corrected, dismiss the samples"
        )
        much = counted(samples, "sample")
        rows.append(
            (Cell(f"quarantined: {_words(name)}", href=url(PATH, why=name)), Cell(much, "number"),
             Cell(figures.UNKNOWN, "number"), Cell(figures.UNKNOWN, narrow=False), Cell(fix, "step"))
        )  # fmt: skip
    heads = ("Reason", "#Quantity", "#Organisations", "Oldest window, UTC", "Fix")
    return Table("By reason", heads, rows, "No usage is pending: all usage is sealed.", "drawdown status")


def _orgs(found: PendingPage, reason: str, query: Mapping[str, str], after: str) -> Table:
    rows = [
        (
            replace(cells_of.org(one.org_id, "assignment"), links=_fixes(one)),
            Cell(REASONS[one.reason].what),
            cells_of.number(one.seconds),
            cells_of.number(one.units, narrow=False),
            cells_of.number(one.samples, narrow=False),
            cells_of.time(one.since_ms),
        )
        for one in found.orgs
    ]
    heads = ("Organisation", "Reason", "#Seconds", "#Units", "#Samples", "Oldest window, UTC")
    none = "No organisation has pending usage."
    if reason:
        none = "No organisation has pending usage for this reason."
    return Table(
        "By organisation", heads, rows, none,
        "drawdown org list --state unassigned",
        next="" if found.next_after is None else url(PATH, **query, after=found.next_after),
        first=url(PATH, **query) if after else "",
    )  # fmt: skip


def _fixes(one: PendingOrg) -> tuple[Link, ...]:
    """Return the action to assign the organisation.

    Return no action if the organisation's usage lacks a feature.
    """
    return () if REASONS[one.reason].lacks_mapping else (act("Assign", "assign", id=one.org_id),)


def _map_size(memory_mb: int) -> tuple[Link, ...]:
    return (act("Map", "feature-map", "admin", memory_mb=memory_mb),)


def _map_event(one: UnmappedEvent) -> tuple[Link, ...]:
    return () if one.metric else (act("Map", "feature-map-event", "admin", event_type=one.event_type),)


def _fixes_event(one: UnmappedEvent) -> str:
    if one.metric:
        return f"drawdown event withdraw SOURCE ID, then drawdown guard consume: {one.metric} charges for it at once"
    return f"drawdown feature map-event {typed(one.event_type, 'FEATURE')}"


def _unmapped(sizes: list[UnmappedSize], events: list[UnmappedEvent]) -> Table:
    rows = [
        (Cell(f"{one.memory_mb:,} MB", links=_map_size(one.memory_mb)), cells_of.number(one.seconds),
         cells_of.number(one.samples, narrow=False), cells_of.number(one.orgs),
         Cell(f"drawdown feature map FEATURE --memory-mb {one.memory_mb}", "step"))
        for one in sizes
    ] + [
        (Cell(one.event_type, "id", links=_map_event(one)), cells_of.number(one.units),
         cells_of.number(one.events, narrow=False), cells_of.number(one.orgs), Cell(_fixes_event(one), "step"))
        for one in events
    ]  # fmt: skip
    heads = ("Size or type", "#Seconds or units", "#Samples", "#Organisations", "Fix")
    none = "Each memory size and event type in use has a feature."
    return Table("Usage without a feature", heads, rows, none, "drawdown feature list")


def _quarantine(samples: list[SampleRow], next_after: str | None, query: Mapping[str, str], after: str) -> Table:
    rows = [
        (
            Cell(one.sample_id, "id", links=_sample_acts(one)),
            cells_of.org(one.org_id),
            Cell(_words(one.reason or "")),
            Cell(one.ts, "id", narrow=False),
            Cell(_meant(one), narrow=False),
            cells_of.time(one.came_ms),
        )
        for one in samples
    ]
    heads = ("Sample", "Organisation", "Reason", "Original time", "Likely time, UTC", "Received, UTC")
    return Table(
        "Quarantined samples", heads, rows, "No sample is in quarantine.", "drawdown sample quarantined",
        next="" if next_after is None else url(PATH, **query, after_sample=next_after),
        first=url(PATH, **query) if after else "",
    )  # fmt: skip


def _sample_acts(one: SampleRow) -> tuple[Link, ...]:
    aside = act("Dismiss", "sample-dismiss", "admin", id=one.sample_id)
    return (aside,) if one.meant_ms is None else (act("Fix", "sample-repair", id=one.sample_id), aside)


def _meant(one: SampleRow) -> str:
    return figures.UNKNOWN if one.meant_ms is None else f"{figures.time(one.meant_ms)}, as {one.meant_as}"


EMBEDDED: Final = "embedded"
BILLERS: Final = ((EMBEDDED, "the embedded ledger"), ("none", "no provider"), ("legacy", "another system"))
"""Billers to which Drawdown can assign an organisation without a lookup of its customer.

For another biller, a tick looks up the customer (`jobs`).
"""
YES: Final = (("no", "no"), ("yes", "yes"))
FROM: Final = Field("from", "From", "time", "Window boundary; the next boundary if left empty.", optional=True)
MOST_FACTS: Final = 20
"""Organisations, sizes or samples that a dry run names."""


def start_of_window(doing: Doing) -> int | None:
    """Return the start of a window in milliseconds; None if the field is empty.

    Errors: WrongField if the time is not a boundary of a window.
    """
    found = doing.time("from")
    if found is not None and found % WINDOW_MS:
        raise WrongField(
            "from",
            f"invalid time {quote_value(doing.values.get('from', ''))}: expected a window boundary, a multiple of "
            "five minutes",
        )
    return found


def _from_option(doing: Doing) -> list[str]:
    start = start_of_window(doing)
    return [] if start is None else ["--from", show_time(start)]


def _named_orgs(doing: Doing) -> list[str]:
    found = doing.texts("id")
    if not found:
        raise WrongField("id", "specify at least one organisation")
    return found


def _biller(connection: sa.Connection, org: str) -> str | None:
    """Return the organisation's present biller.

    Return None if the organisation has no biller, or is not registered yet.
    """
    if not ids.is_known(connection, ids.ORG, org):
        return None
    found: str | None = require_org(connection, org).billing_provider
    return found


def _billed(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    found = [Fact(org, _biller(connection, org) or "no provider") for org in sorted(_named_orgs(doing))]
    return [
        *found,
        Fact("Start, UTC", figures.time(assignments.start_of(start_of_window(doing), doing.by)), fixed=False),
    ]


def _assign(connection: sa.Connection, doing: Doing) -> ActionResult:
    names, provider, customer = _named_orgs(doing), doing.values["provider"], doing.maybe("customer")
    if customer is not None and len(names) != 1:
        raise WrongField("customer", f"a customer applies to a single organisation, not to {len(names):,}")
    halts, new = doing.values["halts"] == "yes", doing.values["new"] == "yes"
    options = FlipOptions(provider, start_of_window(doing), allow_halt=halts, new=new)
    try:
        done = assign_here(connection, [Wish(org, customer) for org in names], options, doing.by)
    except WouldHalt as error:
        raise WrongField("halts", f"{error.why}. To allow this, choose yes") from error
    made = [one for one in done if not one.already]
    said = [f"{len(made):,} assigned to {provider}"]
    said += [f"{len(done) - len(made):,} already assigned to it"] if len(made) < len(done) else []
    said += [f"the next tick seals {sum(one.waited.resolved_s for one in made):,} s of pending usage"]
    return ActionResult("; ".join([*said, *(f"{one.org_id}: {one.note}" for one in done if one.note)]))


def _assign_size(_connection: sa.Connection, doing: Doing) -> Size:
    """Return the size of an assignment.

    If no provider bills the usage, the size is unbounded, because the usage is free.
    """
    return Size(rows=len(_named_orgs(doing)), unbounded=doing.values["provider"] in EXEMPT_PROVIDERS)


def _assign_command(doing: Doing) -> list[str]:
    customer = doing.maybe("customer")
    found = ["org", "assign", *_named_orgs(doing), "--provider", doing.values["provider"], *_from_option(doing)]
    found += [] if customer is None else ["--customer", customer]
    found += ["--new"] if doing.values["new"] == "yes" else []
    return [*found, *(["--allow-halt"] if doing.values["halts"] == "yes" else [])]


def _chosen(doing: Doing) -> QuarantineFilter:
    """Return the filter of samples.

    Errors: WrongField unless the form has either ids, or an organisation or a reason.
    """
    names, org, why = doing.texts("id"), doing.text("org"), doing.text("why")
    if bool(names) == bool(org or why):
        raise WrongField("id", "specify either sample ids or filters (an organisation, a reason), not both")
    return QuarantineFilter(tuple(names), org, why)


def _listed(connection: sa.Connection, doing: Doing) -> list[str]:
    most = fixing.MAX_MENDED + 1
    found = list_quarantined(connection, _chosen(doing), doing.by.now_ms, most=most).samples
    return [f"{one.sample_id}: {(one.reason or '').replace('_', ' ')}" for one in found]


def _quarantine_facts(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    found = _listed(connection, doing)
    return [Fact("In quarantine", figures.count(len(found))), *(Fact(one, "quarantined") for one in found)]


def _many(connection: sa.Connection, doing: Doing) -> Size:
    found, expect = len(_listed(connection, doing)), doing.number("expect")
    if expect not in (None, found):
        raise Refused(
            f"the number of samples differs: expected {expect:,}, but found {found:,}. Check the samples again"
        )
    return Size(rows=found)


def _fix(connection: sa.Connection, doing: Doing) -> ActionResult:
    done = fixing.fix(connection, _chosen(doing), doing.by, unit=doing.values["as"])
    good = [one for one in done if one.new_id is not None]
    if not good:
        if not done:
            raise Refused("cannot correct the samples: no sample matches the filter. Change the filter")
        raise Refused(
            f"cannot correct the sample {done[0].sample_id}: {done[0].why_not}. Choose another time format, or other "
            "samples"
        )
    seconds = sum(one.interval_s for one in good)
    return ActionResult(f"{len(good):,} of {len(done):,} entered again, {seconds:,} s; the next tick seals them")


def _dismiss(connection: sa.Connection, doing: Doing) -> ActionResult:
    done = fixing.dismiss(connection, _chosen(doing), doing.by)
    return ActionResult(f"{len(done):,} dismissed; Drawdown never bills them")


def _sample_options(doing: Doing) -> list[str]:
    chosen = _chosen(doing)
    found = list(chosen.ids)
    for name, value in (("--org", chosen.org), ("--why", chosen.reason)):
        found += [name, value] if value else []
    return found


SAMPLES: Final = (
    Field(
        "id", "Samples", hint="Sample ids, one on each line, in place of the filters below.", optional=True, many=True
    ),
    Field("org", "Organisation of the samples", optional=True),
    Field("why", "Quarantine reason of the samples", optional=True),
    Field("expect", "Expected count", "number", "The action fails if the count differs.", optional=True),
)
NEW: Final = Field("new", "Allow a new name", "choice", choices=YES)
PLACE: Final = "/console/pending"
ASSIGN: Final = Action(
    "assign",
    "Assign",
    (
        Field("id", "Organisations", hint="Organisation ids, one on each line.", many=True),
        Field(
            "provider",
            "Billed by",
            "choice",
            "For other providers, use Assign to another provider on the organisation's page.",
            choices=BILLERS,
        ),
        Field(
            "customer",
            "Customer at the provider",
            hint="If left empty, the latest customer if the provider stays the same, or else the organisation's id.",
            optional=True,
        ),
        FROM,
        NEW,
        Field("halts", "Assign even if the organisation then halts for lack of credit", "choice", choices=YES),
    ),
    _assign,
    _billed,
    _assign_command,
    lambda doing: (
        url("/console/org", id=_named_orgs(doing)[0], tab="assignment") if len(_named_orgs(doing)) == 1 else PLACE
    ),
    "Drawdown does not bill usage before the start. A first assignment may start in the past.",
    size=_assign_size,
)
MEND: Final = Action(
    "sample-repair",
    "Correct samples",
    (*SAMPLES, Field("as", "Time format", "choice", choices=[(one, one) for one in fixing.AS])),
    _fix,
    _quarantine_facts,
    lambda doing: ["sample", "repair", *_sample_options(doing), "--as", doing.values["as"]],
    lambda _doing: PLACE,
    "Use this if only the time is wrong. Drawdown adds a corrected copy with a new id, and keeps the sample.",
    size=_many,
)
DISMISS: Final = Action(
    "sample-dismiss",
    "Dismiss samples",
    SAMPLES,
    _dismiss,
    _quarantine_facts,
    lambda doing: ["sample", "dismiss", *_sample_options(doing)],
    lambda _doing: PLACE,
    "Drawdown never bills dismissed samples, and no longer counts them as quarantined.",
    role="admin",
    size=_many,
)
ACTIONS: Final = (ASSIGN, MEND, DISMISS)
