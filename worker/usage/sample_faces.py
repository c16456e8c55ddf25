"""Declare the actions and lists of samples: list, repair, dismiss, withdraw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.schema.declare import (
    ANY_ID,
    ORG,
    TEXT,
    TIME,
    Action,
    Column,
    Fact,
    Invocation,
    Label,
    Listing,
    Look,
    OrgId,
    Page,
    Size,
    Undo,
    Values,
    whole,
)
from drawdown.schema.errors import Exit, Refused, UsageError
from drawdown.schema.ids import has_samples
from drawdown.schema.typed.parsing import require_range, show_time
from drawdown.worker.sources.samples.quarantine import (
    QuarantineFilter,
    SampleRow,
    list_quarantined,
    require_reason,
)
from drawdown.worker.usage import affected, quarantined, withdrawals
from drawdown.worker.usage.lists import list_samples
from drawdown.worker.usage.quarantined import Mended
from drawdown.worker.usage.withdrawals import Withdrawn

Ids = Annotated[list[str], ANY_ID, "Ids of samples, instead of filters", Label("Samples")]
OfOrg = Annotated[str | None, ORG, "Organisation of the samples"]
OfReason = Annotated[str, TEXT, "Reason for the quarantine"]
Since = Annotated[int | None, TIME, "Earliest time of arrival"]
Until = Annotated[int | None, TIME, "Latest arrival time, exclusive"]
Expect = Annotated[int | None, whole(0, 10**9), "Expected count, as the dry run showed"]
Unit = Literal["auto", "s", "ms", "us", "ns", "iso"]


def chosen_of(
    connection: sa.Connection,
    ids: Sequence[str] | None,
    org_id: str | None,
    why: str,
    from_ms: int | None,
    to_ms: int | None,
) -> QuarantineFilter:
    """Return the filter of quarantined samples.

    Samples of an organisation that no tick has registered can be chosen. If all its samples are quarantined, no tick
    registers it. Errors: UnknownId for an unknown organisation, or a reason without quarantined samples.
    UsageError for an invalid range of times.
    """
    require_range(from_ms, to_ms)
    if org_id and not has_samples(connection, org_id):
        require_org(connection, org_id)
    if why:
        require_reason(connection, why)
    return QuarantineFilter(tuple(ids or ()), org_id or "", why, from_ms, to_ms)


def require_choice(chosen: QuarantineFilter, only: str | None) -> None:
    """Refuse a choice with neither ids nor filters, or with both. Errors: UsageError.

    `only`: the organisation to which the API key is bound. If ids are given, it does not count as a filter.
    """
    named = QuarantineFilter(chosen.ids, chosen.org if chosen.org == only else "")
    if chosen == QuarantineFilter() or (chosen.ids and chosen != named):
        raise UsageError("specify either sample ids or filters (--org, --why, --from, --to), not both")


def require_expected(expect: int | None, found: int) -> None:
    """Refuse a number of samples other than the expected number. Errors: Refused."""
    if expect not in (None, found):
        raise Refused(
            f"the number of samples differs: expected {expect:,}, but found {found:,}. Check again with --dry-run, "
            "without --expect"
        )


@dataclass(frozen=True)
class SamplesMended:
    """The outcomes of quarantined samples.

    Each sample was inserted again under a new id, or has the reason why it was not.
    """

    repaired: list[Mended]


def _mend(
    connection: sa.Connection,
    asked: Invocation,
    ids: Ids | None = None,
    *,
    org_id: OfOrg = None,
    why: OfReason = "",
    from_ms: Since = None,
    to_ms: Until = None,
    as_: Annotated[Unit, "Unit of the samples' times; auto to detect it"] = "auto",
    expect: Expect = None,
) -> SamplesMended:
    chosen = chosen_of(connection, ids, org_id, why, from_ms, to_ms)
    require_choice(chosen, asked.only)
    done = quarantined.fix(connection, chosen, asked.by, unit=as_)
    require_expected(expect, sum(sample.new_id is not None for sample in done))
    return SamplesMended(done)


@dataclass(frozen=True)
class SamplesDismissed:
    """The ids of dismissed samples. `undo`: the call quarantined them again instead."""

    dismissed: list[str]
    undo: bool


def _dismiss(
    connection: sa.Connection,
    asked: Invocation,
    ids: Ids | None = None,
    *,
    org_id: OfOrg = None,
    why: OfReason = "",
    from_ms: Since = None,
    to_ms: Until = None,
    undo: Undo = False,
    expect: Expect = None,
) -> SamplesDismissed:
    if undo and ((org_id and not asked.only) or why or from_ms is not None or to_ms is not None):
        raise UsageError(
            "--undo needs the ids of samples, without filters. To find the ids, run "
            "`drawdown audit list --action sample_dismiss`"
        )
    chosen = chosen_of(connection, ids, org_id, why, from_ms, to_ms)
    require_choice(chosen, asked.only)
    if undo:
        done = quarantined.undo_dismiss(connection, chosen.ids, asked.by, asked.only)
    else:
        done = quarantined.dismiss(connection, chosen, asked.by)
    require_expected(expect, len(done))
    return SamplesDismissed(done, undo)


@dataclass(frozen=True)
class SamplesWithdrawn:
    """Withdrawn samples, which no longer count."""

    withdrawn: list[Withdrawn]


def _withdraw(
    connection: sa.Connection,
    asked: Invocation,
    ids: Annotated[list[str], ANY_ID, "Ids of samples", Label("Samples")],
) -> SamplesWithdrawn:
    return SamplesWithdrawn(withdrawals.withdraw(connection, ids, asked.by))


def _given_back(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    return affected.of_samples(connection, values["ids"]).facts()


def _size(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    return affected.of_samples(connection, values["ids"]).size(len(values["ids"]))


def _waiting(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    """Return the number of chosen samples that are quarantined.

    The number may change after a dry run, because samples may lose the reason that the filter names.
    """
    chosen = QuarantineFilter(
        tuple(values["ids"] or ()), values["org_id"] or "", values["why"], values["from_ms"], values["to_ms"]
    )
    most = quarantined.MAX_MENDED
    page = list_quarantined(connection, chosen, asked.by.now_ms, most=most)
    more = "more than " if page.next_after is not None else ""
    return [Fact("Quarantined", f"{more}{len(page.samples):,}"),
            Fact("Organisations", f"{len({one.org_id for one in page.samples}):,}")]  # fmt: skip


def _many(connection: sa.Connection, asked: Invocation, values: Values) -> Size:
    chosen = chosen_of(connection, values["ids"], values["org_id"], values["why"], values["from_ms"], values["to_ms"])
    page = list_quarantined(connection, chosen, asked.by.now_ms, most=quarantined.MAX_MENDED)
    return Size(rows=max(len(page.samples), 1))


def _list(
    connection: sa.Connection,
    look: Look,
    *,
    org_id: OrgId,
    from_ms: Annotated[int, TIME, "Earliest time of use"],
    to_ms: Annotated[int | None, TIME, "Latest time of use, exclusive; now if omitted"] = None,
) -> Page[SampleRow]:
    until = look.now_ms if to_ms is None else to_ms
    require_range(from_ms, until)
    require_org(connection, org_id)
    rows = list_samples(connection, org_id, from_ms, until, look.most)
    # If all rows have the same time, `--from` would show the same page again.
    on = "" if not rows or rows[0].ts == rows[-1].ts else f"--from {show_time(int(rows[-1].ts))}, or "
    more = [f"more may exist. Pass {on}a larger --most"] if len(rows) == look.most else []
    return Page(rows, notes=more)


def _id(sample: SampleRow) -> str:
    """Return a sample's whole id, so that a person can copy it.

    If the id is too long, return its beginning, its size, and the number of ids that begin so.
    """
    if sample.id_bytes is None:
        return sample.sample_id
    alike = f"; {sample.samples:,} ids begin like this" if sample.samples > 1 else ""
    return f"{sample.sample_id} ({sample.id_bytes:,} bytes{alike})"


def _meant(sample: SampleRow) -> str:
    return "-" if sample.meant_ms is None else f"{show_time(sample.meant_ms)} ({sample.meant_as})"


def _quarantined(
    connection: sa.Connection,
    look: Look,
    *,
    org_id: OfOrg = None,
    why: OfReason = "",
    from_ms: Since = None,
    to_ms: Until = None,
) -> Page[SampleRow]:
    chosen = chosen_of(connection, None, org_id, why, from_ms, to_ms)
    page = list_quarantined(connection, chosen, look.now_ms, after=look.after, most=look.most)
    return Page(page.samples, page.next_after)


def _good(done: SamplesMended) -> list[Mended]:
    return [one for one in done.repaired if one.new_id is not None]


def _sentence(done: SamplesMended) -> str:
    good = _good(done)
    return f"{len(good):,} of {len(done.repaired):,} corrected, {sum(one.interval_s for one in good):,} s"


def _ends(done: SamplesMended) -> Exit:
    return Exit.SETTLED if len(_good(done)) == len(done.repaired) else Exit.PERSON


def _set_aside(done: SamplesDismissed) -> list[str]:
    what = (
        "quarantined again"
        if done.undo
        else ("dismissed. Drawdown never bills them. To undo the dismissal, pass --undo")
    )
    return [f"{len(done.dismissed):,} {what}", *(f"  {name}" for name in done.dismissed[:20])]


def _withdrawn(done: SamplesWithdrawn) -> str:
    return f"{len(done.withdrawn):,} withdrawn. The next tick refunds the charges"


READ: Final = "usage:read"
WRITE: Final = "usage:write"
ACTIONS: Final = (
    Action(
        "sample repair",
        "Correct samples",
        "Correct quarantined samples that have a wrong time. Drawdown adds a copy with its own id and never changes"
        " the sample. The next tick seals the copy. If a sample of the same sandbox and time exists, Drawdown does "
        "not add a copy.",
        _mend,
        _sentence,
        path="/v1/samples/repair",
        scope=WRITE,
        facts=_waiting,
        size=_many,
        count=lambda done: len(_good(done)),
        ends=_ends,
        parts={
            "repaired": (
                "",
                (
                    Column("sample_id", "sample"),
                    Column("org_id", "org"),
                    Column("ts", "original time"),
                    Column("ts_ms", "likely time"),
                    "unit",
                    Column("interval_s", "#seconds"),
                    Column("new_id", "new id or problem", of_row=lambda row: row.new_id or row.why_not),
                ),
            )
        },
    ),
    Action(
        "sample dismiss",
        "Dismiss samples",
        "Dismiss quarantined samples. Drawdown never bills dismissed samples, and no longer counts them as "
        "quarantined.",
        _dismiss,
        _set_aside,
        path="/v1/samples/dismiss",
        scope=WRITE,
        role="admin",
        facts=_waiting,
        size=_many,
        count=lambda done: len(done.dismissed),
    ),
    Action(
        "sample withdraw",
        "Withdraw samples",
        "Withdraw wrong samples. The next tick refunds the charges.",
        _withdraw,
        _withdrawn,
        path="/v1/samples/withdraw",
        scope=WRITE,
        facts=_given_back,
        size=_size,
        parts={
            "withdrawn": (
                "",
                (
                    Column("sample_id", "sample"),
                    Column("org_id", "org"),
                    Column("window_ms", "window"),
                    Column("interval_s", "#seconds or units"),
                    Column("already", "withdrawn before"),
                ),
            )
        },
    ),
)
LISTS: Final = (
    Listing(
        "sample list",
        "Samples",
        "List an organisation's samples by time of use.",
        _list,
        (Column("sample_id", "sample"), Column("sandbox_id", "sandbox"),
         Column("ts", "at", of_row=lambda row: show_time(int(row.ts))),
         Column("memory_mb", "#MB or event type", of_row=lambda row: row.event_type or row.memory_mb),
         Column("interval_s", "#seconds or units"), Column("reason", "problem", rare=True)),
        holds="samples",
        path="/v1/samples",
        scope=READ,
    ),
    Listing(
        "sample quarantined",
        "Quarantined samples",
        "List samples that cannot be billed, with the reason. If a sample's time may have a wrong unit, the list "
        "shows the probable time.",
        _quarantined,
        (Column("sample_id", "sample", of_row=_id), Column("org_id", "org"), "reason",
         Column("ts", "original time"), Column("meant_ms", "likely time", of_row=_meant)),
        holds="samples",
        path="/v1/samples/quarantined",
        scope=READ,
        paged=True,
    ),
)  # fmt: skip
