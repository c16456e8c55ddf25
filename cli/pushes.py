"""`drawdown push`: what was sent, and what a person decides about it."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
import typer

from drawdown.cli.options import Actor, Keys, Most, Reason
from drawdown.cli.render import show, shown, table
from drawdown.cli.state import State
from drawdown.cli.times import show_time
from drawdown.schema.errors import UsageError
from drawdown.worker import corrections
from drawdown.worker.explain import explain_push

app = typer.Typer(help="Pushes: quantities on their way to a provider.", no_args_is_help=True)

OPEN = ("due", "queued", "in_doubt", "rejected")
LIST = """
SELECT key, provider, customer_id, sent_qty, state, attempts, due_at_ms, last_error FROM pushes
WHERE state IN :states AND (:org = '' OR org_id = :org) AND (:provider = '' OR provider = :provider)
ORDER BY window_ms, org_id, feature, revision LIMIT :most
"""


@app.command("list")
def list_(
    context: typer.Context,
    state_: Annotated[
        list[str] | None, typer.Option("--state", help="due, queued, in_doubt, rejected, accepted, voided, carried")
    ] = None,
    org: Annotated[str, typer.Option(help="Only this organisation's")] = "",
    provider: Annotated[str, typer.Option(help="Only this provider's")] = "",
    most: Most = 100,
) -> None:
    """List pushes; without --state, those that are not settled."""
    state: State = context.obj
    values = {"states": list(state_ or OPEN), "org": org, "provider": provider, "most": most}
    query = sa.text(LIST).bindparams(sa.bindparam("states", expanding=True))
    rows = state.read(lambda c: [dict(row._mapping) for row in c.execute(query, values)])
    shown = [(r["key"], r["provider"], r["sent_qty"], r["state"], r["attempts"], r["last_error"]) for r in rows]
    columns = ("key", "provider", "#quantity", "state", "#attempts", "last error")
    show(state, {"pushes": rows}, [table("Pushes", columns, shown)])


@app.command("show")
def show_(context: typer.Context, key: Annotated[str, typer.Argument(help="The push's key")]) -> None:
    """Explain one push: samples, mapping, quantity, attempts, the provider's answer."""
    state: State = context.obj
    found = state.read(lambda c: explain_push(c, key))
    push, samples, attempts = found["push"], found["samples"], found["attempts"]
    assert isinstance(push, dict) and isinstance(samples, list) and isinstance(attempts, list)
    show(
        state,
        found,
        [
            table(key, ("", ""), [(name, shown(name, value)) for name, value in push.items()]),
            table(
                f"Samples of {show_time(push['window_ms'])}, this feature: {found['samples_in_force_qty']:,} in force, "
                f"{found['sealed_qty']:,} sealed in all revisions",
                ("id", "at", "#MB", "#seconds", "withdrawn"),
                [(s["id"], show_time(s["ts"]), s["memory_mb"], s["interval_s"], s["withdrawn"]) for s in samples],
            ),
            table(
                "Attempts",
                ("#no.", "started", "finished", "outcome", "detail"),
                [
                    (a["attempt"], show_time(a["started_ms"]), show_time(a["finished_ms"]), a["outcome"], a["detail"])
                    for a in attempts
                ],
            ),
        ],
    )


@app.command()
def retry(context: typer.Context, keys: Keys, actor: Actor = None, reason: Reason = "not given") -> None:
    """Send again with the next tick. A rejected push is voided and sealed anew, under its next revision."""
    state: State = context.obj
    said = state.said(actor, reason)
    done = state.write(lambda c: corrections.retry(c, keys, said))
    show(state, {"retried": done}, [f"{len(done)} to be sent again by the next tick"])


@app.command()
def resolve(
    context: typer.Context,
    keys: Keys,
    accepted: Annotated[bool, typer.Option("--accepted", help="The provider has it")] = False,
    absent: Annotated[bool, typer.Option("--absent", help="The provider does not have it: void it")] = False,
    evidence: Annotated[str, typer.Option(help="What shows it")] = "",
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Say what became of a push that is in doubt or rejected."""
    state: State = context.obj
    if accepted == absent:
        raise UsageError("give --accepted or --absent")
    said = state.said(actor, reason)
    work = corrections.resolve_accepted if accepted else corrections.void
    done = state.write(lambda c: work(c, keys, said, evidence))
    what = "accepted" if accepted else "voided; what they held is owed again"
    show(state, {"resolved": done, "accepted": accepted}, [f"{len(done)} {what}"])


@app.command()
def void(
    context: typer.Context,
    keys: Keys,
    evidence: Annotated[str, typer.Option(help="What shows that the provider does not have it")] = "",
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Declare that a rejected or doubtful push never reached its provider; its usage is sealed and sent anew."""
    state: State = context.obj
    said = state.said(actor, reason)
    done = state.write(lambda c: corrections.void(c, keys, said, evidence))
    show(state, {"voided": done}, [f"{len(done)} voided; the next tick seals what they held"])
