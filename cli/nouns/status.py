"""`drawdown status`: what is behind, why, since when, how much money, and when it will be drained.

Guarantee: reads only; the exit status is the verdict's; for people, 80 columns wide at most, the verdict first; three
lines where all is settled and nobody is halted.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.parsing import lasting, show_credits, show_time
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import Exit
from drawdown.schema.units import DAY_MS
from drawdown.worker.history.witness import WitnessFile
from drawdown.worker.views.headline import missed_minutes, unwatched_minutes
from drawdown.worker.views.status import org_status, status

WIDTH: Final = 79
LABEL: Final = 10
VERDICTS: Final = {
    "settled": ("ALL SETTLED", Exit.SETTLED),
    "behind": ("BEHIND", Exit.LEFT),
    "person_needed": ("A PERSON IS NEEDED", Exit.PERSON),
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status")(status_)


def status_(context: typer.Context, org: Annotated[str | None, typer.Argument(help="One organisation")] = None) -> None:
    """Show what is behind, why, since when, how much money, and when it will be drained.

    Exit status: 0 where all is settled, 75 where something is behind, 1 where a person is needed; the same for one
    organisation. A halt is no fault: it is shown, and changes no exit status.
    """
    state: App = context.obj
    now = state.clock.now_ms()
    if org is not None:
        found = state.read(lambda c: org_status(c, org, now))
        ends = org_exit(found)
        show(state, {**found, "exit_status": ends}, _split(org_lines(found, now)))
        raise typer.Exit(ends)
    witness = WitnessFile(state.settings.state_folder()).recall(state.ready())
    found = state.read(lambda c: status(c, now, witness))
    ends = VERDICTS[found["verdict"]][1]
    show(state, {**found, "exit_status": ends}, _split(status_lines(found)))
    raise typer.Exit(ends)


def org_exit(found: Mapping[str, Any]) -> Exit:
    """The verdict on one organisation, as the command's exit status."""
    states = {one["state"] for one in found["pushes"]}
    if found["stopped_at_ms"] is not None or states & {"in_doubt", "rejected"}:
        return Exit.PERSON
    due = any(one["due_at_ms"] is not None for one in found["halts"])
    return Exit.LEFT if due or found["pending"] or states & {"due", "queued"} else Exit.SETTLED


def status_lines(found: Mapping[str, Any]) -> list[str]:
    """The whole of it for people."""
    now: int = found["at_ms"]
    lines = [wrapped("", f"{VERDICTS[found['verdict']][0]}: {found['reason']}", shorten=240)]
    if found["verdict"] != "settled":
        lines.append(wrapped("  next:", found["next"]))
    for one in found["providers"]:
        lines += provider_lines(one, now)
    lines.append(wrapped("sealing", _sealing(found)))
    lines += [
        wrapped(
            "pending" if not number else "",
            f"{one['reason']}: {one['seconds']:,} s of {one['orgs']:,} organisations, {since(one['since_ms'], now)}",
        )
        for number, one in enumerate(found["pending"])
    ]
    lines += [wrapped(label, text, shorten=200) for label, text in _others(found, now)]
    if found["halted"]:
        lines.append(wrapped("halted", _halted(found, now)))
    lines.append(wrapped("tick", _tick(found)))
    return lines


def _halted(found: Mapping[str, Any], now: int) -> str:
    named = [
        f"{one['org_id']} ({one['halt_reason'] or 'no reason'}, {lasting(now - one['halted_at'])})"
        for one in found["halted_orgs"]
    ]
    more = ", …; `drawdown org list --halted`" if found["halted"] > len(named) else ""
    many = "organisations" if found["halted"] > 1 else "organisation"
    return f"{found['halted']:,} {many}: {', '.join(named)}{more}"


def wrapped(label: str, text: str, *, shorten: int | None = None) -> str:
    """Text beside its label, no line of it wider than a terminal."""
    flat = " ".join(text.split())
    if shorten is not None and len(flat) > shorten:
        flat = flat[: shorten - 2] + " …"
    first = label.ljust(LABEL) if label else ""
    indent = " " * (LABEL if label else 2)
    return "\n".join(textwrap.wrap(flat, WIDTH, initial_indent=first, subsequent_indent=indent)) or first


def _split(lines: Iterable[str | Table]) -> Iterator[str | Table]:
    """The lines that were wrapped as lines of their own."""
    for line in lines:
        yield from line.split("\n") if isinstance(line, str) else (line,)


def since(ms: int, now: int) -> str:
    """`since 3 h 12 min (2026-01-01T00:00:00Z)`."""
    return f"since {lasting(now - ms)} ({show_time(ms)})"


def provider_lines(one: Mapping[str, Any], now: int) -> list[str]:
    """One provider that is behind: how much, since when, why, worth what, until when."""
    states = ("due", "queued", "in_doubt", "rejected")
    counts = ", ".join(f"{one[name]:,} {name.replace('_', ' ')}" for name in states if one[name])
    name = one["provider"]
    lines = []
    if counts:
        lines.append(wrapped(name, f"{counts}; the oldest {since(one['oldest_ms'], now)}"))
        name = " "
    if one["paused_ms"] is not None:
        by = f" by {one['paused_by']}" if one["paused_by"] else ""
        lines.append(wrapped(name, f"paused{by} {since(one['paused_ms'], now)}: {one['paused_reason']}", shorten=140))
    if one["error"] is not None:
        total = sum(one[state] for state in states)
        lines.append(wrapped(" ", f"error of {one['error_pushes']:,} of {total:,}: {one['error']}", shorten=130))
    if counts:
        lines.append(wrapped(" ", _worth(one)))
    if one["due"] or one["queued"]:
        lines.append(wrapped(" ", _drained(one, now)))
    return lines


def _worth(one: Mapping[str, Any]) -> str:
    units = [f"{quantity:,} {feature}" for feature, quantity in sorted(one["units"].items())]
    some = ", ".join(units[:3]) + (f" and {len(units) - 3} more features" if len(units) > 3 else "")
    if len(one["unpriced"]) == len(one["units"]):
        return f"worth: no price known; {some}"
    without = f", without {', '.join(sorted(one['unpriced']))}, which has no price" if one["unpriced"] else ""
    return f"worth {show_credits(one['price_micro'])} credits by our rate card{without}; {some}"


def _drained(one: Mapping[str, Any], now: int) -> str:
    if one["paused_ms"] is not None:
        return "not draining: paused"
    if one["drained_ms"] is None:
        return "not draining: no tick of the last 15 min settled any"
    moment = datetime.fromtimestamp(one["drained_ms"] // 1000, UTC)
    shape = "%H:%M UTC" if one["drained_ms"] - now < DAY_MS else "%Y-%m-%d %H:%M UTC"
    return f"drained at {one['settled_per_min']:,}/min: about {moment.strftime(shape)}"


def _sealing(found: Mapping[str, Any]) -> str:
    watermark, dirty = found["watermark_ms"], found["left"]["dirty_windows"]
    text = f"up to {show_time(watermark)}, {lasting(found['at_ms'] - watermark)} ago" if watermark else "nothing yet"
    return text + (f"; {dirty:,} windows to be sealed again" if dirty else "")


def _others(found: Mapping[str, Any], now: int) -> list[tuple[str, str]]:
    left = found["left"]
    lines = [("bad", f"{count:,} samples quarantined: {reason}") for reason, count in left["quarantined"].items()]
    if left["dated_ahead"]:
        ahead = f"{left['dated_ahead']:,} samples dated later than now: billed only when their time comes"
        lines.append(("ahead", ahead))
    if found["stopped"]:
        oldest = min(one["stopped_at_ms"] for one in found["stopped"])
        names = ", ".join(one["org_id"] for one in found["stopped"][:3])
        lines.append(("stopped", f"{left['stopped_orgs']:,} organisations ({names}), {since(oldest, now)}"))
    if found["halts"]["due"]:
        halts = found["halts"]
        text = f"{halts['due']:,} due at cells, the oldest {since(halts['since_ms'], now)}"
        lines.append(("halts", text + (f": {halts['error']}" if halts["error"] else "")))
    lines += [("unheeded" if not number else "", one["said"]) for number, one in enumerate(found["unheeded"][:3])]
    if left["projections_due"]:
        lines.append(("reading", f"{left['projections_due']:,} organisations to ask their providers about"))
    lines += [
        ("unread", f"{one['orgs']:,} organisations of {one['provider'] or 'nobody'}, {since(one['since_ms'], now)}")
        for one in found["unread"]
    ]
    if minutes := unwatched_minutes(found):
        lines.append(("watch", f"no round for {minutes:,} min ({show_time(found['watch_ms'])})"))
    lines += [
        ("totals", f"{one['days']:,} organisation-days {one['verdict']} at {one['provider']}, when last compared")
        for one in found["differing"]
    ]
    if found["open_transaction"]:
        one = found["open_transaction"]
        text = f"{one['who']} has a transaction open for {lasting(one['age_ms'])}: what it inserted is not billed yet"
        lines.append(("open", text))
    lines += [("replay", _replay(one, now)) for one in found["replays"]]
    return lines


def _replay(one: Mapping[str, Any], now: int) -> str:
    span = f"{show_time(one['from_ms'])} to {show_time(one['to_ms'])}, come to {show_time(one['next_ms'])}"
    stands = "at work" if one["lease_ms"] > now else "stopped; the same command goes on with it"
    return f"{stands}: by {one['actor']}, {span}"


def _tick(found: Mapping[str, Any]) -> str:
    last, now = found["last_tick"], found["at_ms"]
    if last is None:
        return "none yet"
    text = (
        f"{lasting(now - last['finished_ms'])} ago ({show_time(last['started_ms'])}), took {lasting(last['took_ms'])}, "
        f"exit status {last['exit_status']}"
    )
    if minutes := missed_minutes(found):
        return f"no tick for {minutes:,} min: is the cron running? The last: {text}"
    running = last["another_began_ms"]
    return text + (f"; another began {lasting(now - running)} ago" if running else "")


def org_lines(found: Mapping[str, Any], now: int) -> list[str | Table]:
    """One organisation for people."""
    lines: list[str | Table] = [wrapped("", f"{found['org_id']}: {_stands(found, now)}", shorten=240)]
    if found["watermark_ms"]:
        behind = lasting(now - found["watermark_ms"])
        lines.append(wrapped("sealed", f"up to {show_time(found['watermark_ms'])}, {behind} ago"))
    if found["floor_ms"]:
        lines.append(wrapped("floor", f"{show_time(found['floor_ms'])}; before it all is closed for good"))
    for one in found["pending"]:
        text = f"{one['seconds']:,} s of {one['memory_mb']:,} MB, {since(one['since_ms'], now)}: {one['reason']}"
        lines.append(wrapped("pending", text))
    for one in found["halts"]:
        told = f"due {since(one['due_at_ms'], now)}" if one["due_at_ms"] else "acknowledged"
        text = f"cell {one['cell_id']}: {told}" + (f"; {one['last_error']}" if one["last_error"] else "")
        lines.append(wrapped("halt", text, shorten=200))
    billed = [
        (show_time(a["start_ms"]), show_time(a["end_ms"]), a["provider"], a["customer_id"]) for a in _billed(found)
    ]
    lines.append(table("Billed by", ("from", "to", "provider", "customer"), billed))
    rows = [(p["provider"], p["feature"], p["state"], p["pushes"], p["quantity"]) for p in found["pushes"]]
    lines.append(table("Pushes", ("provider", "feature", "state", "#pushes", "#quantity"), rows))
    return lines


def _billed(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(found["assignments"])[-5:]


def _stands(found: Mapping[str, Any], now: int) -> str:
    if found["stopped_at_ms"] is not None:
        why = found["stopped_reason"]
        return f"stopped {since(found['stopped_at_ms'], now)}: {why}; then `drawdown org release {found['org_id']}`"
    biller = found["billing_provider"] or "nobody"
    if found["is_halted"]:
        return f"billed by {biller}, halted {since(found['halted_at'], now)}: {found['halt_reason']}"
    most = found["max_concurrent_sandboxes"]
    return f"billed by {biller}, running" + (f", {most:,} sandboxes at once" if most is not None else "")
