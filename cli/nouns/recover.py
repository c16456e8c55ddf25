"""`drawdown recover`: continue after the database was restored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Actor, DryRun, Reason
from drawdown.cli.rendering import show
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.engine.runner import run
from drawdown.worker.history.recover import Recovered, recover

BEFORE: Final = {
    "access (a key or login that was ended since works again)": (
        "key create", "key rotate", "key end", "console user add", "console user role", "console user reset",
        "console user end",
    ),
    "organisations, features and providers": (
        "org assign", "org override", "org halt", "org resume", "feature map", "feature map-event", "feature end",
        "provider rate", "provider when-down", "provider pause", "provider resume", "vendor set", "vendor import",
    ),
    "credit and terms": (
        "ledger grant", "ledger take-back", "ledger rate", "plan set", "plan put", "tier set", "tier buy", "pool make",
        "pool allot", "payer allow", "payer end", "supplier set", "supplier freeze", "topup set", "topup resume",
        "topup stop", "topup start",
    ),
    "limits and guards": (
        "guard set", "limit set", "limit end", "override make", "override ask", "override approve", "override refuse",
        "override end",
    ),
    "inputs and receivers": (
        "backfill open", "backfill stage", "backfill close", "source add", "source pause", "source remove",
        "batch take", "batch accept", "cell set", "cell remove", "hook set", "hook rotate", "hook low", "hook end",
    ),
}  # fmt: skip
"""Changes by people to repeat before `drawdown recover`: the commands, by subject."""
AFTER: Final = (
    "sample withdraw", "event withdraw", "batch withdraw", "backfill revert", "sample repair", "sample dismiss",
    "push resolve", "push resolve-all", "push void", "push void-lost", "push cancel", "push retry",
    "provider accept", "provider bill-shadow", "topup resolve",
)  # fmt: skip
"""Changes by people to repeat after `drawdown tick` has ended with 0.

The objects of these changes exist again only after that tick.
"""
OF_THE_LEDGER: Final = (
    "The ledger also lost executions that were accepted or settled since, reversals and payouts. Before the next "
    "payout, repeat them in the order of `ops/runbooks/database-restored.md`. Otherwise a supplier is paid twice. "
    "Drawdown credits each paid top-up. Do not grant it by hand."
)


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("recover")(recover_)


def recover_(
    context: typer.Context,
    since: Annotated[
        str | None,
        typer.Option(help="Time of the backup", show_default="the last tick on record"),
    ] = None,
    restored: Annotated[
        bool,
        typer.Option("--restored", help="Confirmation that the database was restored, if Drawdown does not detect it"),
    ] = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Continue after a restore, or after lost commits.

    First resend all samples and events since the backup from your hosts and programs. Then repeat backfills, and the
    changes that people made since the backup. The next ticks look up each open push, and each push of a window from
    before the loss. They then bill the usage that the provider does not have. Pushes to a provider without lookups
    become in doubt.
    """
    app: App = context.obj
    since_ms = None if since is None else app.past(since, "--since")
    app.ready()
    app.require_clock()
    by = app.by(actor, reason)
    steps = recover(app.context(), by, since_ms=since_ms, restored=restored, dry_run=dry_run)
    found = run(steps, app.world())
    show(app, {"recover": found, "dry_run": dry_run}, _report(found, dry_run=dry_run))


def _report(found: Recovered, *, dry_run: bool) -> list[str]:
    if found.recovered_ms is not None:
        return [
            f"recovered at {show_time(found.recovered_ms)} already (incarnation {found.number}), and nothing was lost "
            "since. Nothing was changed.",
            f"on record up to {show_time(found.from_ms)} before the recovery.",
            *_after(found),
            "If the database was restored again, and every machine that ticked on it is gone, pass `--restored`.",
            OF_THE_LEDGER,
        ]
    if found.found is None:
        return [
            f"no history was lost: this is the database of the last tick (incarnation {found.number}). The command "
            "did not change data.",
            "If the database was still restored, and every machine that ticked on it is gone, pass `--restored`.",
        ]
    since, sample = show_time(found.from_ms), show_time(found.last_sample_ms)
    lines = [
        f"evidence of the loss: {found.found}",
        f"on record up to {since}. This database lost all later changes, but the providers may have them",
        f"Drawdown looks up {counted(found.to_look_up, 'open push', 'open pushes')} before it sends anything. It also "
        "looks up each push that it seals from now on for an earlier window",
    ]
    if found.to_decide:
        lines.append(
            f"a person must decide {counted(found.to_decide, 'open push', 'open pushes')}, unless a machine with that "
            "provider's key can look them up. To list them, run `drawdown push list --state in_doubt`"
        )
    lines += [
        f"{name} declares other terms on this machine than in this database. A person must decide its earlier pushes "
        "unless a lookup finds exactly their charge. "
        + (
            "If the settings are wrong, correct them before you recover"
            if dry_run
            else "Later changes do not undo this"
        )
        for name in found.other_terms
    ]
    if dry_run:
        lines += [
            f"First import again the samples written since {since} (the newest here is of {sample}), and repeat "
            "the changes that people made since. `ops/runbooks/database-restored.md` has the steps:",
            *(f"- {what}: {_words(commands)}" for what, commands in BEFORE.items()),
            "Then repeat this command without --dry-run. Nothing was changed.",
        ]
    else:
        lines += _after(found)
    return [*lines, OF_THE_LEDGER]


def _after(found: Recovered) -> list[str]:
    """Return the next steps after a recovery. A repeated call returns them again."""
    return [
        f"incarnation {found.number}: ticks continue. Samples, events and uses of the guard that are sent again "
        "later are billed once, too.",
        f"When `drawdown tick` ends with 0, repeat these actions that people took since: {_words(AFTER)}.",
        "A key or login that was ended since works again until you end it again: `key list`, `console user list`.",
        "When `drawdown status` reports that all is settled, run "
        f"`drawdown reconcile --from {show_time(found.from_ms)[:10]}`, then `drawdown verify`.",
    ]


def _words(commands: Iterable[str]) -> str:
    return ", ".join(f"`{words}`" for words in commands)
