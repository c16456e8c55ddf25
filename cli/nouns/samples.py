"""`drawdown sample`: delete old samples.

The other commands are declared actions and lists.
"""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.options import Actor, DryRun, Reason
from drawdown.cli.rendering import show
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.usage import prune
from drawdown.worker.usage.sample_faces import ACTIONS, LISTS

commands = of_noun("sample", *LISTS, *ACTIONS)


@commands.command("prune")
def prune_(
    context: typer.Context,
    before: Annotated[str, typer.Option(help="Time before which samples are deleted, at least 35 days ago")],
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Close old windows for good and delete their samples.

    If an organisation has pending or unsettled usage, its windows from the first such usage on stay open. Quarantined
    samples stay until you correct or dismiss them, because their time may be wrong. The command also deletes older
    records of items that the API rejected as invalid.
    """
    app: App = context.obj
    by, moment = app.by(actor, reason), app.moment(before, "--before")
    done = prune.prune(app.write, moment, by, dry_run=dry_run)
    samples = counted(done.samples, "sample")
    text = f"{'would delete' if dry_run else 'deleted'} {samples} before {show_time(done.before_ms)}"
    orgs = counted(done.held_back, "organisation has", "organisations have")
    held = f"; {orgs} pending or unsettled usage before that" if done.held_back else ""
    kept = [
        f"quarantined samples that {'would stay' if dry_run else 'stay'}: {done.quarantined:,}. To list them, run "
        "`drawdown sample quarantined`. Then correct them with `drawdown sample repair ID`, or dismiss them with "
        "`drawdown sample dismiss ID`. A prune deletes dismissed samples"
    ]
    show(app, {"pruned": done, "dry_run": dry_run}, [text + held, *(kept if done.quarantined else [])])
