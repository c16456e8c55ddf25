"""`drawdown feature`: which memory sizes and event types make which feature."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple
from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, DryRun, From, New, Reason
from drawdown.cli.rendering import show, table
from drawdown.events.values import COUNT, MAX_VALUE_SCALE, SUM, EventValue
from drawdown.schema.errors import UsageError
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.catalog.mapping import FOREVER_MS
from drawdown.worker.features import actions as features
from drawdown.worker.features.lists import list_features

commands = typer.Typer()
EARLIER = "what was used before that has no feature by it: give --from, an earlier window, to bill that, too"
BEFORE = "what was to begin makes nothing now, and what was made until then does not go on past there: map it again"


@commands.command("list")
def list_(context: typer.Context) -> None:
    """Show the mapping, and what is used but has no feature."""
    app: App = context.obj
    found = app.read(list_features)
    rows = [
        (g.feature, g.lo, g.hi, g.unit, show_time(g.start_ms), "-" if g.end_ms == FOREVER_MS else show_time(g.end_ms))
        for g in found.mapping
    ]
    events = [
        (
            e.feature,
            e.event_type,
            e.unit,
            e.value or "stated",
            show_time(e.start_ms),
            "-" if e.end_ms is None else show_time(e.end_ms),
        )
        for e in found.event_types
    ]
    sizes, types = map(astuple, found.without_feature), [astuple(one) for one in found.events_without_feature]
    lines = [
        table("Mapping", ("feature", "#MB from", "#MB to", "unit", "from", "to"), rows),
        *(
            [table("Event types", ("feature", "event type", "unit", "quantity", "from", "to"), events)]
            if events
            else []
        ),
        table("Used, but without a feature", ("#MB", "#seconds", "#samples", "#orgs"), sizes),
    ]
    if types:
        lines.append(
            table("Events without a feature", ("event type", "#units", "#events", "#orgs", "charged by"), types)
        )
    show(app, vars(found), lines)


@commands.command("map")
def map_(
    context: typer.Context,
    feature: Annotated[str, typer.Argument(help="a-z, 0-9 and _")],
    memory_mb: Annotated[int | None, typer.Option(help="Sizes of exactly this many MB")] = None,
    up_to: Annotated[int | None, typer.Option(help="Sizes up to this many MB that have nothing nearer")] = None,
    rest: Annotated[bool, typer.Option("--rest", help="All larger sizes: the open top")] = False,
    unit: Annotated[str, typer.Option(help="s: seconds; mb_s: MB-seconds")] = "s",
    from_: From = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Fill holes in sealed windows; or it was so before a restore")
    ] = False,
    new: New = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Bill a memory size, or all sizes up to one, as a feature.

    An exact size wins over a tier, a smaller tier over a larger one. What a window meant once it was sealed never
    changes; reaching back gives a feature only to sizes that had none there. A feature has one unit for good.
    """
    app: App = context.obj
    if [memory_mb is not None, up_to is not None, rest].count(True) != 1:
        raise UsageError("give one of --memory-mb N, --up-to N, --rest")
    kind, size = ("exact", memory_mb) if memory_mb is not None else ("up_to", up_to)
    start, by = app.window(from_, "--from"), app.by(actor, reason)
    made = app.write(
        lambda c: features.map_size(
            c, feature, by, kind=kind, memory_mb=size, unit=unit, from_ms=start, confirmed=yes or dry_run, new=new
        ),
        rollback=dry_run,
    )
    what = (
        f"{size:,} MB" if memory_mb is not None else "all larger sizes" if size is None else f"sizes up to {size:,} MB"
    )
    lines = [
        f"{'would map' if dry_run else 'mapped'} {feature} {_since(made)}: {what}; before: "
        f"{made.was or 'nothing of their own'}",
        f"{made.mended_s:,} s of {made.mended_sizes:,} sizes in {made.mended_windows:,} places that waited for a "
        f"feature {'would be' if dry_run else 'will be'} sealed by the next tick",
    ]
    already = [f"{what}: {feature} already, {_since(made)}; nothing was changed"]
    show(app, {"feature": feature, "dry_run": dry_run, "mapped": made}, already if made.again else lines)


@commands.command("map-event")
def map_event_(
    context: typer.Context,
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="The event type, as events say it")],
    feature: Annotated[str, typer.Argument(help="a-z, 0-9 and _")],
    unit: Annotated[str, typer.Option(help="units: one of what the type counts")] = "units",
    sum_: Annotated[str | None, typer.Option("--sum", help="Path of the value in the data: $.usage.tokens")] = None,
    scale: Annotated[int, typer.Option(min=1, max=MAX_VALUE_SCALE, help="Base units in one of that value")] = 1,
    count: Annotated[bool, typer.Option("--count", help="Each event is one unit")] = False,
    from_: From = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Fill holes in sealed windows; or it was so before a restore")
    ] = False,
    new: New = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Bill events of a type as a feature: the sum of their quantities.

    A type may be mapped before its first event: then, without --from, whenever it is used; of a type that was used
    already, from the next window on. What a window meant once it was sealed never changes. With --sum or --count, any
    CloudEvent of the type can be billed: declare that before its first event, for good.
    """
    app: App = context.obj
    value = _value(sum_, scale, count=count)
    start, by = app.window(from_, "--from"), app.by(actor, reason)
    made = app.write(
        lambda c: features.map_event(
            c, event_type, feature, by, unit=unit, from_ms=start, confirmed=yes or dry_run, new=new, value=value
        ),
        rollback=dry_run,
    )
    counted = [f"{'would be' if dry_run else 'is'} billed of each event: {value.share}"] if value else []
    unchanged = "" if counted else "; nothing was changed"
    show(
        app,
        {"event_type": event_type, "feature": feature, "dry_run": dry_run, "mapped": made, "value": value},
        [
            f"{event_type} is mapped to {feature} already, {_since(made)}{unchanged}",
            *counted,
        ]
        if made.again
        else [
            f"{'would map' if dry_run else 'mapped'} {event_type} to {feature} {_since(made)}; "
            f"before: {made.was or 'nothing'}",
            *counted,
            f"{made.mended_s:,} units in {made.mended_windows:,} places that waited for a feature "
            f"{'would be' if dry_run else 'will be'} sealed by the next tick",
            *([EARLIER] if from_ is None and made.was is None and made.start_ms else []),
        ],
    )


def _value(path: str | None, scale: int, *, count: bool) -> EventValue | None:
    """Errors: UsageError."""
    if path is None and not count and scale != 1:
        raise UsageError("--scale would change nothing without --sum: pass --sum PATH, too")
    if path is None and not count:
        return None
    if path is not None and count:
        raise UsageError("specify either --sum or --count, not both")
    return EventValue(COUNT if count else SUM, path, scale)


def _since(made: features.Mapped) -> str:
    return f"from {show_time(made.start_ms)} on" if made.start_ms else "whenever it is used"


@commands.command()
def end(
    context: typer.Context,
    feature: Annotated[str, typer.Argument(help="The feature to end")],
    from_: From = None,
    yes: Annotated[bool, typer.Option("--yes", help="It ended so before a restore that lost it")] = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Stop making a feature; its sizes and event types wait, visibly, for another one. What is to make it later ends
    where it was to begin. No other feature ends."""
    app: App = context.obj
    start, by = app.window(from_, "--from"), app.by(actor, reason)
    ended = app.write(lambda c: features.end_feature(c, feature, by, from_ms=start, confirmed=yes))
    begins, was = Counter(one.start_ms for one in ended), "; it was so before" if ended[0].again else ""
    lines = [f"{feature} ends at {show_time(at)}, for {count:,} sizes or event types" for at, count in begins.items()]
    lines[-1] += was
    show(app, {"feature": feature, "ended": ended}, [*lines, *([BEFORE] if any(one.unbegun for one in ended) else [])])
